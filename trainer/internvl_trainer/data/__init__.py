"""The data path: InternVL meta JSON and JSONL in, packs of tokens and tiles out. Pure functions around one loader.

`PackStream` is the only part that does I/O. Everything it does is decided by functions of its configuration, so pack
number i is the same pack on every rank, in every layout and after every restart.
"""

from internvl_trainer.data.errors import BadSampleError, DataError
from internvl_trainer.data.pack import Pack
from internvl_trainer.data.stream import PackStream
from internvl_trainer.data.tokenizer import Tokenizer

__all__ = ["BadSampleError", "DataError", "Pack", "PackStream", "Tokenizer"]
