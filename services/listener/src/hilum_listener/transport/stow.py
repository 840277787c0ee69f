"""STOW-RS over HTTP/1.1, on Starlette and uvicorn: who may send what, how much, how slowly, and the answer."""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hilum.domain.errors import Reject
from hilum.ports.clock import Clock
from hilum.runtime.config import Peer
from hilum.runtime.logs import Log
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.part10 import is_uid
from hilum_listener.handlers.peers import PeerLimits, Refusal, admit_by_host
from hilum_listener.handlers.spool import Spool
from hilum_listener.handlers.stow import Failure, Outcome, Transaction, boundary_of
from hilum_listener.handlers.stow_answer import JSON, XML, answer_type, encode, status_of
from hilum_listener.handlers.stow_store import DurableStore
from hilum_listener.settings import StowSettings

_LOG = Log("hilum.listener.stow")
_THREADS = 8
_LEAST_BYTES_PER_S = 1000
_RETRY_AFTER_S = "30"
_CALLER_ON_THIS_MACHINE = "STOW-RS"
Result = TypeVar("Result")


class _Refused(Exception):
    """The request is answered before its body is read."""

    def __init__(self, status: HTTPStatus, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class StowDoor:
    """The Store transaction, for `/studies` and `/studies/{uid}`."""

    def __init__(
        self,
        settings: StowSettings,
        spool: Spool,
        journal: JournalWriter,
        clock: Clock,
        certificate_of: Callable[[Peer], bytes | None],
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._journal = journal
        self._clock = clock
        self._certificate_of = certificate_of
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stow")
        self._keeping = ThreadPoolExecutor(_THREADS, thread_name_prefix="stow-keep")
        self._prefix = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-stow"
        self._numbers = itertools.count(1)
        self._limits = PeerLimits()
        self._open: Counter[Peer | None] = Counter()

    def app(self) -> Starlette:
        routes = [Route(path, self.post, methods=["POST"]) for path in ("/studies", "/studies/{uid}")]
        return Starlette(routes=routes, exception_handlers={HTTPException: _plain, Exception: _bug})

    async def post(self, request: Request) -> Response:
        peer: Peer | None = None
        counted = False
        try:
            media_type = _answer_type(request)
            peer = await self._admit(request)
            boundary = self._check(request)
            self._take_place(peer)
            counted = True
            return await self._store(request, peer, boundary, media_type)
        except _Refused as refused:
            _LOG.warning("request refused", peer=_address(request), reason=refused.reason, status=refused.status.value)
            return PlainTextResponse(f"{refused.reason}\n", refused.status, refused.headers)
        finally:
            if counted:
                self._open[peer] -= 1

    async def _admit(self, request: Request) -> Peer | None:
        """The peer that calls; None for a caller on this machine while no peer is configured."""
        if "origin" in request.headers:
            raise _Refused(HTTPStatus.FORBIDDEN, "web pages may not store images here")
        admitted = await asyncio.to_thread(  # not among the threads that store: a name server may be slow
            admit_by_host,
            address=_address(request),
            peers=self._settings.peers,
            certificate=getattr(request.state, "certificate", None),
            certificate_of=self._certificate_of,
        )
        if isinstance(admitted, Refusal):
            raise _Refused(HTTPStatus.FORBIDDEN, "this system is not among those that may send")
        return admitted

    def _check(self, request: Request) -> str:
        """What the head of the request must say; gives the boundary."""
        headers = request.headers
        if "uid" in request.path_params and not is_uid(request.path_params["uid"]):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the study in the address is not a UID")
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise _Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a compressed body is not taken", {"Accept-Encoding": "identity"}
            )
        if "transfer-encoding" in headers and "content-length" in headers:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body has two lengths")
        if int(headers.get("content-length", "0")) > self._settings.max_request_bytes:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large())
        try:
            return boundary_of(headers.get("content-type", ""))
        except Reject as error:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, error.reason) from error

    def _too_large(self) -> str:
        return f"the request is larger than {self._settings.max_request_bytes // 1_000_000} MB"

    def _take_place(self, peer: Peer | None) -> None:
        full = self._open.total() >= self._settings.max_requests
        if full or (
            peer is not None and self._limits.take(peer, open_now=self._open[peer], now_s=time.monotonic()) is not None
        ):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests for now", {"Retry-After": "1"})
        self._open[peer] += 1

    async def _store(self, request: Request, peer: Peer | None, boundary: str, media_type: str) -> Response:
        association = f"{self._prefix}-{next(self._numbers)}"
        store = DurableStore(
            self._spool,
            self._journal,
            self._clock.now,
            self._keeping,
            calling_ae=_CALLER_ON_THIS_MACHINE if peer is None else peer.ae_title.strip(),
            peer=_address(request),
            association=association,
        )
        try:
            transaction = Transaction(boundary, store, study_instance_uid=request.path_params.get("uid", ""))
        except Reject as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, error.reason) from error
        if not await self._in_thread(partial(_has_space, store)):
            return self._answer([Outcome(failure=Failure.OUT_OF_RESOURCES)], media_type, association)
        await self._in_thread(partial(store.note, "opened"))
        cut, ended = None, "aborted"
        try:
            cut = await self._feed(request, transaction)
            ended = "released"
        except ClientDisconnect:
            _LOG.warning("request broken off", association=association, peer=_address(request))
        finally:
            # also when the server stops: what is half received must not stay
            await asyncio.shield(self._in_thread(partial(_end, transaction, store, ended)))
        return self._answer(transaction.outcomes, media_type, association, cut)

    async def _feed(self, request: Request, transaction: Transaction) -> HTTPStatus | None:
        """Takes the body to its end, or to where no more of it is read; then gives the status if nothing was stored.

        Raises:
            ClientDisconnect: the sender is gone.
        """
        idle_s, most = self._settings.idle_timeout_s, self._settings.max_request_bytes
        received, waited_s = 0, 0.0
        body = request.stream()
        while True:
            began = time.monotonic()
            try:
                # a sender may pause, but not crawl: then it would hold its place for ever
                async with asyncio.timeout(min(idle_s, idle_s + received / _LEAST_BYTES_PER_S - waited_s)):
                    piece = await anext(body, None)
            except TimeoutError:
                transaction.finish()
                return HTTPStatus.REQUEST_TIMEOUT
            waited_s += time.monotonic() - began
            if piece is None:
                transaction.finish()
                return None
            received += len(piece)
            if received > most:
                transaction.finish(Failure.OUT_OF_RESOURCES)
                return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            try:
                await self._in_thread(partial(transaction.feed, piece))
            except Reject:
                transaction.finish()
                return None

    def _answer(
        self, outcomes: Sequence[Outcome], media_type: str, association: str, cut: HTTPStatus | None = None
    ) -> Response:
        """`cut`: the status when nothing is stored because the body was not read to its end."""
        stored = sum(outcome.failure is None for outcome in outcomes)
        status = cut if cut is not None and not stored else status_of(outcomes)
        failures = Counter(outcome.failure.name for outcome in outcomes if outcome.failure is not None)
        reason = ", ".join(f"{count} {name.lower().replace('_', ' ')}" for name, count in failures.items())
        log = _LOG.warning if reason else _LOG.info
        log("request answered", association=association, count=stored, status=status.value, reason=reason)
        headers = {"Retry-After": _RETRY_AFTER_S} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
        return Response(encode(outcomes, media_type), status, headers, media_type)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _end(transaction: Transaction, store: DurableStore, change: str) -> None:
    transaction.close()
    store.note(change)


def _has_space(store: DurableStore) -> bool:
    try:
        store.check()
    except OSError:
        return False
    return True


def _answer_type(request: Request) -> str:
    found = answer_type(",".join(request.headers.getlist("accept")))
    if found is None:
        raise _Refused(HTTPStatus.NOT_ACCEPTABLE, f"answers are {JSON} or {XML}")
    return found


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _plain(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)


async def _bug(_request: Request, error: Exception) -> Response:
    _LOG.error("request failed", exc_info=error)
    return PlainTextResponse("the listener hit a bug; its log has the place\n", HTTPStatus.INTERNAL_SERVER_ERROR)
