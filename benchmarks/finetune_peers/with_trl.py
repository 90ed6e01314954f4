"""TRL's SFTTrainer with a PEFT adapter: `with_trl.py BASE TOKENS DATA JSON`, in TRL's own environment.

Frozen weights in bfloat16, the adapter in float32, autocast; loss on the completion only and logits never
kept (TRL's default), no gradient checkpointing, rows tokenised before. `style` is one of STYLES.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from meter import Meter, score
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

STYLES = {
    "plain": {},
    "padding_free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True, "max_length": 512},
    "pure": {"bf16": False},
    "compiled": {"torch_compile": True},
}
PROJECTIONS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}


def rows(tokens: Path) -> Dataset:
    ids, labels, offsets = (np.load(tokens / f"train.{name}.npy") for name in ("ids", "labels", "offsets"))
    parts = list(itertools.pairwise(offsets))
    return Dataset.from_dict(
        {
            "input_ids": [ids[start:end].tolist() for start, end in parts],
            "completion_mask": [(labels[start:end] != -100).astype(int).tolist() for start, end in parts],
        }
    )


def main(base: Path, tokens: Path, data: Path, given: dict) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation="sdpa")
    packed = given["style"] == "packed"
    settings = SFTConfig(
        output_dir=str(tokens.parent / "trl"),
        per_device_train_batch_size=given["packs"] if packed else given["micro"],
        gradient_accumulation_steps=1 if packed else given["batch"] // given["micro"],
        max_steps=given["steps"],
        learning_rate=given["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=given["warmup"],
        weight_decay=0.01,
        adam_beta2=0.95,
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        gradient_checkpointing=False,
        completion_only_loss=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        **({"bf16": True} | STYLES[given["style"]]),
    )
    adapter = LoraConfig(
        r=given["r"],
        lora_alpha=given["alpha"],
        lora_dropout=0.0,
        target_modules=PROJECTIONS[model.config.model_type],
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model, args=settings, train_dataset=rows(tokens), processing_class=tokenizer, peft_config=adapter
    )
    meter = Meter(None if packed else given["step_tokens"])
    meter.watch(trainer.model)
    trainer.train()
    trainer.model.eval()
    meter.report(score(lambda ids: trainer.model(input_ids=ids).logits, tokens))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]))
