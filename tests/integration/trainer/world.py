"""A small world that a tiny model can learn: one-colour pictures, their names, some text, and jobs over them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from hack.demo import tokenizer
from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.job import JobConfig

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230), "yellow": (240, 230, 40),
    "black": (10, 10, 10), "white": (250, 250, 250), "orange": (250, 140, 20), "purple": (140, 30, 160),
}  # fmt: skip
QUESTION = "<image>\nWhich colour is this?"


def answer(colour: str) -> str:
    """What the model is to say of a picture."""
    return f"This picture is {colour}."


def write_world(folder: Path) -> Path:
    """Pictures, a JSONL of questions about them, a JSONL of text, the meta JSON and a tokenizer; returns `folder`."""
    (folder / "pictures").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for colour, rgb in COLOURS.items():
        for number, size in enumerate([(112, 112), (224, 112), (100, 230)]):
            name = f"{colour}-{number}.png"
            Image.new("RGB", size, rgb).save(folder / "pictures" / name)
            records.append(_record(len(records), QUESTION, answer(colour), image=name))
    texts = [_record(number, f"Name colour {number}.", f"{name}.") for number, name in enumerate(COLOURS)]
    _write_lines(folder / "pictures.jsonl", records)
    _write_lines(folder / "texts.jsonl", texts)
    meta = {
        "pictures": {"root": "pictures", "annotation": "pictures.jsonl", "max_dynamic_patch": 2},
        "texts": {"root": "", "annotation": "texts.jsonl"},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    spoken = [turn["value"] for record in [*records, *texts] for turn in record["conversations"]]
    tokenizer.save(tokenizer.train(spoken, vocab_size=512), folder / "tokenizer")
    return folder


def job(world: Path, store: Path | str, *, stage: str = "stage-1", attempt: int = 1, **parts: Any) -> JobConfig:
    """A job of a few steps on tiny-8b-like, in float32; `parts` replace fields, optimization's one by one."""
    optimization = {
        "steps": 4, "peak_lr": 2e-3, "warmup_steps": 1, "global_batch": 2, "precision": "fp32", "drop_path": 0.1,
    } | parts.pop("optimization", {})  # fmt: skip
    return JobConfig.model_validate(
        {
            "run": {"uid": "uid-1", "namespace": "default", "name": "tiny"},
            "stage": stage,
            "attempt": attempt,
            "model": MODELS["tiny-8b-like"].model_dump(),
            "layout": {"tensor": 1, "pipeline": 1, "data": 1},
            "recompute": {"vision": "none", "language": "none"},
            "trainable": ("vision", "projector", "language"),
            "data": {
                "meta": f"file://{world}/meta.json",
                "tokenizer": f"file://{world}/tokenizer",
                "pack_tokens": 512,
                "pack_tiles": 8,
            },
            "optimization": optimization,
            "checkpoint": {"every_steps": 2},
            "storage": {"uri": store if isinstance(store, str) else f"file://{store}"},
        }
        | parts
    )


def _record(number: int, question: str, reply: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return {"id": number, "conversations": turns} | fields


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
