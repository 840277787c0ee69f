"""MedMO on ONNX Runtime: greedy generation with a KV cache, in process, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.answer import AnswerText
from hilum_medmo.build import built
from hilum_medmo.chat import Chat
from hilum_medmo.config import Qwen3VLConfig, read_config
from hilum_medmo.errors import RequestError
from hilum_medmo.identity import checkpoint_digest, read_identity
from hilum_medmo.image_processor import Grid, ImageProcessor, read_image_processor
from hilum_medmo.model import Finish, Generation, ModelIdentity, Request, Timings
from hilum_medmo.positions import PromptLayout, lay_out, patch_positions
from hilum_medmo.sessions import Decoding, Sessions


def load(checkpoint: Path, *, threads: int | None = None, onnx_dir: Path | None = None) -> OnnxMedMO:
    """Load a checkpoint folder, building its ONNX graphs if they are missing or of other weights.

    Args:
        checkpoint: folder with config.json, the safetensors, tokenizer.json and, if it has them, chat template,
            preprocessor_config.json, generation_config.json and hilum.json.
        threads: cores that one request uses; None: all that the process may use.
        onnx_dir: where the graphs live, `<checkpoint>/onnx` if None.

    Raises:
        CheckpointError: the checkpoint is incomplete or no Qwen3-VL.
    """
    config = read_config(checkpoint)
    digest = checkpoint_digest(checkpoint)
    identity = read_identity(checkpoint, digest)
    chat = Chat(checkpoint, config)
    processor = read_image_processor(checkpoint, config.vision)
    with built(checkpoint, config, digest, onnx_dir=onnx_dir) as graphs:
        sessions = Sessions(graphs.vision, graphs.decoder, config, threads)
    return OnnxMedMO(identity, config, chat, processor, sessions)


class OnnxMedMO:
    """A MedMO (see `model.MedMO`). Holds no state of a request, so threads may share it."""

    def __init__(
        self,
        identity: ModelIdentity,
        config: Qwen3VLConfig,
        chat: Chat,
        processor: ImageProcessor,
        sessions: Sessions,
    ) -> None:
        """Use `load`, which reads all of these from one folder."""
        self._identity = identity
        self._config = config
        self._chat = chat
        self._processor = processor
        self._sessions = sessions

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        return self._identity

    def generate(self, request: Request, *, should_stop: Callable[[], bool] | None = None) -> Generation:
        """Answer greedily; see `model.MedMO.generate`."""
        stop = should_stop or (lambda: False)
        started = time.perf_counter()
        patches = [self._processor.patches(image) for image in request.images]
        grids = [grid for _, grid in patches]
        ids = self._encode(request, grids)
        layout = lay_out(ids, grids, self._config.image_token, self._config.vision.merge)
        prepared = time.perf_counter()
        answer = AnswerText(self._chat.tokenizer, self._chat.hidden_tokens)
        features = self._features(patches, stop) if patches else None
        seen = time.perf_counter()
        decoding = Decoding(self._sessions)
        finish: Finish = "cancelled"
        prompted = seen
        if not stop() and (features is not None or not patches):
            logits = decoding.prefill(ids, layout.positions, layout.image_index, features)[0]
            prompted = time.perf_counter()
            finish = self._decode(decoding, logits, layout, request.max_new_tokens, answer, stop)
        text, tokens = answer.finish()
        timings = Timings(prepared - started, prompted - prepared, time.perf_counter() - prompted, seen - prepared)
        return Generation(text, tokens, finish, timings)

    def prompt_logits(self, request: Request) -> NDArray[np.float32]:
        """Logits (S, vocabulary) of every prompt token: for comparing implementations, not for answering."""
        patches = [self._processor.patches(image) for image in request.images]
        grids = [grid for _, grid in patches]
        ids = self._encode(request, grids)
        layout = lay_out(ids, grids, self._config.image_token, self._config.vision.merge)
        features = self._features(patches, lambda: False) if patches else None
        keep = np.arange(len(ids))
        return Decoding(self._sessions).prefill(ids, layout.positions, layout.image_index, features, keep=keep)

    def _encode(self, request: Request, grids: Sequence[Grid]) -> NDArray[np.int64]:
        if request.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {request.max_new_tokens}, less than 1")
        ids = self._chat.encode(request, grids)
        room = self._config.text.max_positions - request.max_new_tokens
        if not 0 < len(ids) <= room:
            raise RequestError(f"a prompt of {len(ids)} tokens, images included; this model has room for {room}")
        return ids

    def _features(
        self, patches: Sequence[tuple[NDArray[np.float32], Grid]], stop: Callable[[], bool]
    ) -> NDArray[np.float32] | None:
        """Features (1 + D, 1 + L, H) of all images behind a row of zeros; None if asked to stop between images."""
        vision = self._config.vision
        counts = [grid.patches // vision.merge**2 for _, grid in patches]
        features = np.zeros((self._config.image_levels, 1 + sum(counts), vision.out_hidden), np.float32)
        at = 1
        for (pixels, grid), count in zip(patches, counts, strict=True):
            if stop():
                return None
            features[:, at : at + count] = self._sessions.encode_image(pixels, patch_positions(grid, vision))
            at += count
        return features

    def _decode(
        self,
        decoding: Decoding,
        logits: NDArray[np.float32],
        layout: PromptLayout,
        limit: int,
        answer: AnswerText,
        stop: Callable[[], bool],
    ) -> Finish:
        position = layout.next_position
        for count in range(1, limit + 1):
            token = int(logits.argmax())
            answer.append(token, _probability(logits, token))
            if token in self._chat.stop_tokens:
                return "stop"
            if count == limit:
                break
            if stop():
                return "cancelled"
            logits = decoding.step(token, position)
            position += 1
        return "length"


def _probability(logits: NDArray[np.float32], token: int) -> float:
    """Softmax probability of one token."""
    return float(1.0 / np.exp(logits - logits[token]).sum(dtype=np.float64))
