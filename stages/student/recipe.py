"""Every knob of a training: of whole models, and of LoRA finetunings. Light: imported for `--help`."""

from typing import Literal

from pydantic import Field

from stages.core.stage import Knobs

TARGETS = ("query", "key", "value", "projection", "mlp", "head")


class Training(Knobs):
    """Of models that are trained whole (encoders)."""

    epochs: int = Field(1, gt=0, description="passes over the training rows")
    lr: float = Field(2e-5, gt=0, description="peak learning rate")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising rate")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="of the rate after that")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="weights stay float32")
    eval_interval: int = Field(100, gt=0, description="steps between losses on the validation rows")
    save_interval: int = Field(
        50, gt=0, description="steps between saved states; a killed run goes on from there"
    )
    seed: int = Field(1, ge=0)
    devices: int = Field(1, gt=0, description="devices per node; torchrun and srun set it themselves")
    num_nodes: int = Field(1, gt=0, description="nodes; torchrun and srun set it themselves")
    strategy: Literal["auto", "ddp"] = Field("auto", description="several devices: each has the model")


class Recipe(Knobs):
    lora_r: int = Field(16, ge=1, description="rank of the LoRA matrices")
    lora_alpha: int = Field(32, ge=1, description="LoRA scale: updates are multiplied by alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the LoRA branch")
    lora_query: bool = Field(True, description="adapt the query projections")
    lora_key: bool = Field(True, description="adapt the key projections")
    lora_value: bool = Field(True, description="adapt the value projections")
    lora_projection: bool = Field(True, description="adapt the attention output projections")
    lora_mlp: bool = Field(True, description="adapt the MLP layers")
    lora_head: bool = Field(False, description="adapt the output head (unties tied embeddings)")
    batch_size: int = Field(8, ge=1, description="rows of one optimizer step, over all devices")
    micro_batch_size: int = Field(8, ge=1, description="rows of one forward pass on one device")
    epochs: int = Field(2, ge=1, description="passes over the training rows")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    min_lr: float = Field(1e-5, ge=0, description="learning rate of the last step")
    warmup_steps: int = Field(
        20, ge=0, description="steps of linear warm-up; at most half of all steps are used"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW beta1")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW beta2")
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    eval_interval: int = Field(100, ge=1, description="steps between full validations")
    save_interval: int = Field(50, ge=1, description="steps between saved states; a killed run resumes there")
    patience: int = Field(0, ge=0, description="stop after this many validations without a gain; 0: never")
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed"] = Field(
        "32-true", description="number format of training; the adapter stays float32 unless it ends in -true"
    )
    quantize: Literal["none", "nf4"] = Field("none", description="nf4: QLoRA, frozen weights in 4 bits")
    packing: Literal["auto", "true", "false"] = Field(
        "auto",
        description="rows of a forward pass end to end, without padding; auto: but for 32-true on CUDA",
    )
    checkpoint: bool = Field(
        False, description="keep each block's input only and compute the rest again: less memory, more time"
    )
    seed: int = Field(1337, ge=0, description="seed of the LoRA start, the row order and dropout")
    devices: int = Field(1, ge=1, description="devices per node; torchrun and srun set it themselves")
    num_nodes: int = Field(1, ge=1, description="nodes; torchrun and srun set it themselves")
    strategy: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="several devices: ddp (each has the model; so does auto) or fsdp (each a part)",
    )

    def targets(self) -> list[str]:
        return [name for name in TARGETS if getattr(self, f"lora_{name}")]
