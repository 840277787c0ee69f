"""Checks of the model servers: each is asked who its model is."""

from collections.abc import Iterator
from pathlib import Path

from hilum.runtime.config import Model
from hilum_standalone.diagnosis.check import Check, note, ok, red

_PATIENCE_S = 5.0


def model_servers(model: Model, checkpoint: Path) -> Iterator[Check]:
    """What answers at each of `[model] servers`; red when none can be asked."""
    from hilum_medmo.errors import MedMOError
    from hilum_medmo.identity import checkpoint_digest

    try:
        expected = model.digest or checkpoint_digest(checkpoint)
    except (MedMOError, OSError) as error:
        yield red("Model servers", f"{checkpoint}: {error}", "set [model] digest or checkpoint")
        return
    good = 0
    for address in model.servers:
        trouble, found = _look(address, expected)
        good += not trouble
        yield note(f"Model server {address}", trouble, _remedy()) if trouble else ok(f"Model server {address}", found)
    if not good:
        wanted = f"none has the weights {expected[:12]}…: studies wait"
        yield red("Model servers", wanted, "see the line of each")


def _look(address: str, expected: str) -> tuple[str, str]:
    """What is wrong, or else what is there."""
    from hilum.domain.errors import HilumError
    from hilum_medmo.serving.contract import DESCRIBE
    from hilum_worker.triton.replica import Patience, Replica, Trouble

    replica = Replica(address, Patience(_PATIENCE_S, _PATIENCE_S))
    try:
        name, version, digest = replica.ask(DESCRIBE, should_stop=lambda: False).model
    except (Trouble, HilumError) as error:
        return error.reason, ""
    finally:
        replica.close()
    if digest != expected:
        return f"{name} {version} has other weights ({digest[:12]}…) than expected ({expected[:12]}…)", ""
    return "", f"{name} {version}; {digest}"


def _remedy() -> str:
    return "start or restart it with triton_models/medmo and these weights, or mend [model] servers in hilum.toml"
