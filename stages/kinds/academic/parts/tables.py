"""Tables of answers, a CSV for each model, with the columns of the original in its order."""

import csv
import io
from collections.abc import Mapping

from stages.core.files import atomic_directory, write_text
from stages.kinds.academic import places
from stages.kinds.academic.parts.answering import MODELS
from stages.kinds.academic.parts.scoring import Scores

OF_FILE = ("page", "para_num", "text", "pdf_name", "question", "answer", "text_synthetic", "gpt_response")


def write_tables(
    dataset: str, scores: Scores, chunks: Mapping[str, Mapping], seconds: Mapping[tuple[str, str], float]
) -> None:
    """Write reports/DATASET/answers/MODEL.csv of our own models; `seconds` by model and question.

    What the file of questions does not have, or was not measured, is an empty cell.
    """
    models = {model: rows for model, rows in scores.asked.answers.items() if model in MODELS}
    most = max((len(row["chunks"]) for rows in models.values() for row in rows.values()), default=0)
    header = [*OF_FILE, "model_response", *(f"context_chunk_{n}" for n in range(1, most + 1))]
    counts = {f"{model}.csv": len(rows) for model, rows in models.items()}
    with atomic_directory(places.tables(dataset), "evaluate_papers", counts) as folder:
        for model, rows in models.items():
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*header, "inference_speed_seconds", "cosine_similarity"])
            for name, question in scores.asked.questions.items():
                known = {**question["extra"], "question": question["question"], "answer": question["answer"]}
                known["pdf_name"] = known.get("pdf_name") or question["source"]
                texts = [chunks[one]["text"] for one in rows[name]["chunks"]]
                cosine = scores.values[model][name]["cosine"]
                writer.writerow(
                    [
                        *(known.get(column, "") for column in OF_FILE),
                        rows[name]["answer"],
                        *texts,
                        *[""] * (most - len(texts)),
                        seconds.get((model, name), ""),
                        "" if cosine != cosine else round(cosine, 6),  # NaN
                    ]
                )
            write_text(folder / f"{model}.csv", text.getvalue())
