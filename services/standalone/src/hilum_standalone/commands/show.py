"""`hilum show`: one study."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hilum_standalone.options import cluster_of, config_option, data_option, json_option, ledger_of, terminal

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hilum.adapters.sql.ledger_values import FindingRow, ResultRow, RetrievalRow, RevisionRow, StudyDetail


@click.command()
@click.argument("study_uid")
@data_option
@config_option
@json_option
def show(study_uid: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Show one study: its state and reason, findings with pixel boxes, the ledger and the deliveries."""
    import json

    with ledger_of(data, cluster=cluster_of(data, config)) as connection:
        detail = known_study(connection, study_uid)
    if as_json:
        click.echo(json.dumps(detail.to_json(), indent=2, ensure_ascii=False))
        return
    console = terminal()
    for line in _lines(detail):
        console.print(line, markup=False)


def known_study(connection: "Connection", study_uid: str) -> "StudyDetail":
    """The study, or an error that says what to look at instead."""
    from hilum.adapters.sql.ledger import list_quarantine, show_study, uids_with

    detail = show_study(connection, study_uid)
    if detail is not None:
        return detail
    for row in list_quarantine(connection):
        if row.study_instance_uid == study_uid:
            raise click.ClickException(f"the images of {study_uid} could not be indexed: {row.reason}; kept: {row.uri}")
    near = uids_with(connection, study_uid, limit=3) if study_uid else []
    hint = f"did you mean {', '.join(near)}?" if near else "`hilum studies` lists those that arrived"
    raise click.ClickException(f"no study {study_uid} is known; {hint}")


def _lines(detail: "StudyDetail") -> Iterator[str]:
    row = detail.row
    yield f"Study     {row.study_uid}"
    yield f"State     {row.state}: {row.reason}"
    yield f"Images    {len(detail.images)} ({row.modality or 'no modality'}), {row.description or 'no description'}"
    yield f"Ordered   {row.order_priority}, accession {row.accession or '-'}, from {detail.calling_ae or '-'}"
    if row.conflict:
        yield f"Conflict  {row.conflict}"
    for asked in detail.retrievals:
        yield _retrieval(asked)
    for revision in detail.revisions:
        yield ""
        yield from _revision(revision)


def _retrieval(asked: "RetrievalRow") -> str:
    words = f"{asked.state}, {asked.attempts} attempt{'s' if asked.attempts != 1 else ''}" + (
        f": {asked.reason}" if asked.reason else ""
    )
    if asked.kind == "prior":
        day = asked.study_date or "no date"
        return f"Earlier   {day} {asked.target_uid}, {len(asked.images)} images here, from {asked.archive}: {words}"
    what = {"missing": "missing images", "search": "earlier studies"}[asked.kind]
    return f"Archive   asked for {what}: {words}"


def _revision(revision: "RevisionRow") -> Iterator[str]:
    yield f"Revision {revision.revision}: {revision.state} ({revision.reason})"
    yield f"  {_time(revision.last_received_at)}  last image, {revision.instance_count} in all"
    yield f"  {_time(revision.completed_at)}  complete: {revision.complete_reason}"
    if revision.route:
        lane = f"{revision.route.lane} lane" if revision.route.lane else "not applicable"
        yield f"  {_time(revision.route.decided_at)}  routed: {lane}, {revision.route.reason or revision.route.rule}"
    job = revision.job
    if job:
        yield f"  {_time(job.enqueued_at)}  job {job.state}, attempts {job.attempts}" + (
            f": {job.last_error}" if job.last_error else ""
        )
    if revision.ended_at:
        yield f"  {_time(revision.ended_at)}  ended: {revision.state}"
    if revision.result:
        yield from _result(revision.result)
    if revision.result and not revision.deliveries:
        yield "  no destination is configured"
    for delivery in revision.deliveries:
        words = delivery.reason or (delivery.attempts[-1].words if delivery.attempts else "not tried yet")
        tries = f"{len(delivery.attempts)} attempts" if len(delivery.attempts) != 1 else "1 attempt"
        yield f"  {delivery.format} to {delivery.destination}: {delivery.state}, {tries}; {words}"


def _result(result: "ResultRow") -> Iterator[str]:
    model = result.model
    yield f"  {model.name} {model.version}, weights {model.digest[:12]}. {model.disclaimer}"
    for finding in result.findings:
        yield _finding(finding)
    for label in result.ungrounded:
        yield f"    {label}: in the report, without a box"
    for dropped in result.dropped:
        yield f"    dropped: {dropped.text} ({dropped.reason})"
    if result.report:
        yield f"  Report: {result.report}"
    for answer in result.answers:
        yield f"  {answer.question} {answer.text}"
    yield "  " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in sorted(result.timings_s.items()))


def _finding(finding: "FindingRow") -> str:
    box = finding.box
    place = f"columns {box.left:.0f} to {box.right:.0f}, rows {box.top:.0f} to {box.bottom:.0f}"
    urgent = ", urgent" if finding.urgent else ""
    return (
        f"    {finding.label} {finding.probability:.2f}{urgent}: {place} of {finding.columns} x {finding.rows}, "
        f"frame {finding.frame} of image {finding.sop_instance_uid}"
    )


def _time(moment: object) -> str:
    from datetime import datetime

    assert isinstance(moment, datetime)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
