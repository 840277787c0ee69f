"""ONNX Runtime sessions of one checkpoint, and the calls that generation makes of them.

The KV cache stays in ONNX Runtime's memory from step to step (IO binding); Python sees only ids and logits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from hilum_medmo.config import Qwen3VLConfig
from hilum_medmo.errors import CheckpointError
from hilum_medmo.positions import PatchPositions

_FAR = -1e9
"""Added to scores that must not count; far enough for fp32, and unlike -inf never makes a NaN of an empty row."""


class Sessions:
    """Vision encoder and decoder. Safe to share among threads; each `Decoding` belongs to one request."""

    def __init__(self, vision: Path, decoder: Path, config: Qwen3VLConfig, threads: int | None) -> None:
        """Load both graphs; `threads` None means one per core that this process may use.

        Raises:
            CheckpointError: ONNX Runtime refuses a graph.
        """
        options = _options(threads or len(os.sched_getaffinity(0)))
        try:
            self._vision = ort.InferenceSession(str(vision), options, providers=["CPUExecutionProvider"])
            self.decoder = ort.InferenceSession(str(decoder), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise CheckpointError(f"ONNX Runtime cannot load {vision.parent}: {error}") from error
        self.config = config

    def encode_image(self, pixels: NDArray[np.float32], positions: PatchPositions) -> NDArray[np.float32]:
        """Features (1 + D, tokens, H) of one image's patches; see graph/vision.py."""
        feeds = {
            "pixel_values": pixels,
            "position_index": positions.indices,
            "position_weight": positions.weights,
            "cos": positions.cos,
            "sin": positions.sin,
        }
        features: NDArray[np.float32] = self._vision.run(["features"], feeds)[0]
        return features


class Decoding:
    """One sequence being decoded: the KV cache and how far it has come."""

    def __init__(self, sessions: Sessions) -> None:
        """Start with an empty cache."""
        text = sessions.config.text
        self._session = sessions.decoder
        self._binding = self._session.io_binding()
        self._past = [f"past_{part}.{layer}" for layer in range(text.layers) for part in ("key", "value")]
        self._present = [name.replace("past", "present", 1) for name in self._past]
        empty = np.zeros((1, text.kv_heads, 0, text.head_dim), np.float32)
        self._cache: list[Any] = [ort.OrtValue.ortvalue_from_numpy(empty) for _ in self._past]
        self._length = 0
        self._no_image = np.zeros((sessions.config.image_levels, 1, text.hidden), np.float32)

    def prefill(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        image_index: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        *,
        keep: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Run a prompt.

        Args:
            ids: (S,) token ids.
            positions: (3, 1, S) M-RoPE positions.
            image_index: (1, S), 0 for text, else the row of `features`.
            features: (1 + D, 1 + L, H), row 0 zeros; None for text alone.
            keep: which of the S tokens get logits; None: the last.

        Returns:
            Logits (kept, vocabulary).
        """
        size = len(ids)
        bias = np.triu(np.full((size, size), _FAR, np.float32), 1)[None, None]
        if self._length:
            seen = np.zeros((1, 1, size, self._length), np.float32)
            bias = np.concatenate([seen, bias], axis=-1)
        kept = np.array([size - 1]) if keep is None else keep
        return self._run(
            ids[None], positions, bias, image_index, self._no_image if features is None else features, kept
        )

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """Append one text token at this position (same on all three axes); logits (vocabulary,) of what follows."""
        ids = np.array([[token]], np.int64)
        positions = np.full((3, 1, 1), position, np.int64)
        bias = np.zeros((1, 1, 1, self._length + 1), np.float32)
        no_index, only = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
        return self._run(ids, positions, bias, no_index, self._no_image, only).reshape(-1)

    def _run(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        bias: NDArray[np.float32],
        image_index: NDArray[np.int64],
        features: NDArray[np.float32],
        keep: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        binding = self._binding
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("position_ids", positions)
        binding.bind_cpu_input("attention_bias", bias)
        binding.bind_cpu_input("image_index", image_index)
        binding.bind_cpu_input("image_features", features)
        binding.bind_cpu_input("keep", keep)
        for name, value in zip(self._past, self._cache, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.clear_binding_outputs()
        binding.bind_output("logits")
        for name in self._present:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        logits, *self._cache = binding.get_outputs()
        self._length += ids.shape[1]
        rows: NDArray[np.float32] = logits.numpy()[0]
        return rows


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False  # each step has a new shape; a remembered pattern for each would only grow
    # Threads that spin between operators take the cores of the services beside this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
