"""The embedded side of the wake-up port: couriers that are threads of this process."""

from collections.abc import Sequence

from hilum_results.transport.courier import Courier


class LocalWakeUps:
    """Wakes the courier of a destination; a name that has none wakes nobody."""

    def __init__(self, couriers: Sequence[Courier]) -> None:
        self._couriers = {courier.name: courier for courier in couriers}

    def wake(self, destination: str) -> None:
        if destination in self._couriers:
            self._couriers[destination].wake()

    def close(self) -> None:
        """Wakes all of them, so that they see that it is time to stop."""
        for courier in self._couriers.values():
            courier.wake()
