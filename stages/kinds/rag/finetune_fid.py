"""Finetune an encoder-decoder to answer from several passages: fusion-in-decoder.

Reads data/DATASET/passages/, data/DATASET/retrieved/, prompts/DATASET/student.md, which is rendered with one
passage at a time, and models/base/BASE, of base_seq2seq. Writes models/DATASET/fid/, a Hugging Face directory
of transformers' own T5 with the weights of the lowest validation loss, and the losses in
reports/DATASET/figures/fid_curve.json. A killed run goes on where its last state was saved, and ends
bit-equal on a CPU to one that was not killed. Several devices: set devices, or start it with
torchrun or srun.
"""

from stages.core import layout
from stages.core.files import write_json
from stages.core.prompts import Template
from stages.kinds.rag.knobs import FinetuneFidKnobs
from stages.kinds.rag.parts.fid import Reading
from stages.kinds.rag.parts.fid_trainer import rows_of, train
from stages.student.formats.seq2seq import open_seq2seq


def run(dataset: str, knobs: FinetuneFidKnobs) -> tuple[dict, dict]:
    base = layout.base_model(knobs.base)
    model = open_seq2seq(base, "base: ")
    reading = Reading(Template(layout.prompt(dataset, "student")), base, knobs)
    rows = rows_of(dataset, ("train", "val"), reading)
    curve, figures, timings = train(dataset, model, base, *rows, knobs)
    write_json(layout.figures(dataset) / "fid_curve.json", curve)
    return {**figures, "prompts_cut": reading.cut}, timings
