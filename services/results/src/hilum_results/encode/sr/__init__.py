"""Comprehensive 3D SR by TID 1500 Measurement Report (PS3.16), as IHE AI Results asks for it."""

from hilum_results.encode.sr.read import decode
from hilum_results.encode.sr.write import encode

__all__ = ["decode", "encode"]
