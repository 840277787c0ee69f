"""Every table. Each has one service that writes it, named in its comment; others only read.

Times are aware and stored as UTC microseconds since 1970 (integers sort and compare the same in every database).
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from hilum.adapters.sql.columns import Instant as Instant
from hilum.adapters.sql.columns import RowId as _RowId
from hilum.adapters.sql.columns import metadata as metadata
from hilum.adapters.sql.event_tables import consumer_offsets as consumer_offsets
from hilum.adapters.sql.event_tables import dead_letters as dead_letters
from hilum.adapters.sql.event_tables import events as events
from hilum.adapters.sql.event_tables import outbox as outbox
from hilum.adapters.sql.event_tables import partition_offsets as partition_offsets

# --- listener/assemble ------------------------------------------------------------------------------------------------

journal_positions = Table(
    "journal_positions",
    metadata,
    Column("journal", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
    comment="listener/assemble: how far each journal is folded into the index, in bytes",
)

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("study_key", String(16), nullable=False, unique=True),
    Column("revision", Integer, nullable=False),  # of the newest complete revision; 0 before the first
    Column("receiving", Boolean, nullable=False),  # images arrived since that revision
    Column("first_received_at", Instant, nullable=False),
    Column("last_received_at", Instant, nullable=False),
    Column("order_priority", String(8), nullable=False),
    Column("description", String(256), nullable=False),
    Column("modalities", String(64), nullable=False),  # "CR" or "CT/SR", sorted
    Column("header", JSON, nullable=False),  # hilum.domain.study.StudyHeader as a dict (patient nested)
    Column("conflict", Text, nullable=False),  # why images of this study disagree, or empty
    Column("calling_ae", String(16), nullable=False),
    Column("receiving_since", Instant),  # first image since the newest revision; null in rows of 0.2
    Index("ix_studies_receiving", "receiving", "last_received_at"),
    Index("ix_studies_newest", "last_received_at"),
    comment="listener/assemble",
)

series = Table(
    "series",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("modality", String(16), nullable=False),
    Column("body_part", String(16), nullable=False),
    Column("description", String(256), nullable=False),
    comment="listener/assemble",
)

instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("uri", String(256), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("columns", Integer, nullable=False),
    Column("frames", Integer, nullable=False),
    Column("instance_number", Integer),
    Column("view_position", String(16), nullable=False),
    Column("photometric", String(16), nullable=False),
    Column("presentation_intent", String(16), nullable=False),
    Column("received_at", Instant, nullable=False),
    comment="listener/assemble",
)

revisions = Table(
    "revisions",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("instance_count", Integer, nullable=False),
    Column("last_received_at", Instant, nullable=False),
    Column("completed_at", Instant, nullable=False),
    Column("reason", Text, nullable=False),
    Column("closed", Boolean, nullable=False, server_default=false()),  # its outcome was seen; may lag
    Index(
        "ix_revisions_open",
        "study_instance_uid",
        "revision",
        sqlite_where=text("closed = 0"),
        postgresql_where=text("NOT closed"),
    ),
    comment="listener/assemble",
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("uri", String(256), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False, server_default=""),  # of the file; empty when it can't be read
    Column("sop_instance_uid", String(64), nullable=False, index=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", Instant, nullable=False),
    comment="listener/assemble: received bytes that could not be indexed, kept where `uri` says",
)

removals = Table(
    "removals",
    metadata,
    Column("uri", String(256), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("noted_at", Instant, nullable=False),
    comment="listener/assemble: files of the spool that nothing refers to any more, until they are gone",
)

expirations = Table(
    "expirations",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("expired_at", Instant, primary_key=True),
    Column("instance_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    comment="listener/assemble: the images that retention removed, when and why",
)

study_senders = Table(
    "study_senders",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("association", String(64), primary_key=True),
    Column("state", String(8), nullable=False),  # open, released, aborted
    Column("number", Integer),  # counts the senders of a study in the order in which they came; null in rows of 0.3
    Index("ix_study_senders_association", "association"),
    comment="listener/assemble: the associations that brought images of a study since its newest revision",
)

procedure_steps = Table(
    "procedure_steps",
    metadata,
    Column("step_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), primary_key=True, index=True),
    Column("status", String(16), nullable=False),  # hilum.domain.study.StepStatus
    Column("reason", String(128), nullable=False),  # why it was discontinued, from the code's list
    Column("instances", JSON, nullable=False),  # [[SOP class, SOP instance], ...] of its performed series
    Column("calling_ae", String(16), nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    comment="listener/assemble: modality performed procedure steps",
)

availability_notices = Table(
    "availability_notices",
    metadata,
    Column("notice", String(64), primary_key=True),
    Column("study_instance_uid", String(64), primary_key=True, index=True),
    Column("instances", JSON, nullable=False),  # as in procedure_steps
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", Instant, nullable=False),
    comment="listener/assemble: instance availability notifications",
)

commitment_requests = Table(
    "commitment_requests",
    metadata,
    Column("notice", String(64), primary_key=True),  # stands for the requester and its transaction
    Column("transaction_uid", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("association", String(64), nullable=False),
    Column("instances", JSON, nullable=False),  # as in procedure_steps
    Column("state", String(12), nullable=False),  # asked, due, sending, delivered
    Column("report", JSON, nullable=False),  # {"committed": [...], "failed": [[class, instance, reason], ...]}
    Column("attempts", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("lease_until", Instant),
    Column("due_at", Instant, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_at", Instant, nullable=False),
    Column("delivered_at", Instant),
    Index("ix_commitment_requests_state", "state", "due_at"),
    comment="listener/assemble takes them in and decides them; listener/commit reports",
)

commitments = Table(
    "commitments",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transaction_uid", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("basis", String(8), nullable=False),  # archive, pacs
    Column("committed_at", Instant, nullable=False),
    comment="listener/assemble: what Hilum answered for; retention never deletes it",
)

committed_elsewhere = Table(
    "committed_elsewhere",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("calling_ae", String(16), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transaction_uid", String(64), nullable=False),
    Column("failure_reason", Integer),  # PS3.3 C.14.1.1; null: committed
    Column("reported_at", Instant, nullable=False),
    comment="listener/assemble: what others answer for, from their N-EVENT-REPORTs",
)

# --- listener/fetch ---------------------------------------------------------------------------------------------------

retrievals = Table(
    "retrievals",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),  # the study for which it is asked
    Column("kind", String(8), primary_key=True),  # missing, search (for earlier studies), prior
    Column("target_uid", String(64), primary_key=True),  # the study that is retrieved or searched from
    Column("state", String(8), nullable=False),  # asked, running, done, failed
    Column("attempts", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("lease_until", Instant),
    Column("due_at", Instant, nullable=False),
    Column("reason", Text, nullable=False),
    Column("archive", String(64), nullable=False),  # its name in hilum.toml; empty: any
    Column("sender_ae", String(16), nullable=False),  # who sends what C-MOVE asked for; empty: Hilum fetches itself
    Column("instances", JSON, nullable=False),  # SOP Instance UIDs asked for, put down before they are
    Column("came", Integer, nullable=False),  # how many of them are in the index
    Column("study_date", String(8), nullable=False),  # of an earlier study, YYYYMMDD
    Column("asked_at", Instant, nullable=False),
    Column("started_at", Instant),  # first attempt
    Column("finished_at", Instant),
    Index("ix_retrievals_state", "state", "due_at"),
    Index("ix_retrievals_target", "target_uid", "kind"),
    comment="listener/fetch: what it asks archives for; assemble only reads",
)

# --- listener/route ---------------------------------------------------------------------------------------------------

routes = Table(
    "routes",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("lane", String(8)),  # null when not applicable
    Column("rule", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_at", Instant, nullable=False),
    comment="listener/route",
)

# --- worker -----------------------------------------------------------------------------------------------------------

jobs = Table(
    "jobs",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("lane", String(8), nullable=False),
    Column("rank", Integer, nullable=False),  # 0 stat, 1 urgent, 2 routine
    Column("payload", JSON, nullable=False),  # contracts.InferenceRequested
    Column("headers", JSON, nullable=False, server_default=text("'{}'")),  # the trace; goes with what is published
    Column("state", String(12), nullable=False),  # queued, claimed, done, failed, superseded
    Column("attempts", Integer, nullable=False),
    Column("token", Integer, nullable=False),  # fencing: grows with each claim
    Column("lease_until", Instant),
    Column("worker", String(64), nullable=False),
    Column("last_error", Text, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("enqueued_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Index("ix_jobs_claim", "state", "rank", "enqueued_at"),
    Index("ix_jobs_study", "study_instance_uid", "revision"),
    comment="worker",
)

# --- results ----------------------------------------------------------------------------------------------------------

outcomes = Table(
    "outcomes",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("state", String(16), nullable=False),  # hilum.domain.results.AiState
    Column("reason", Text, nullable=False),
    Column("result_key", String(64)),
    Column("ended_at", Instant, nullable=False),
    Index("ix_outcomes_ended", "ended_at"),
    comment="results: the one visible end state of each revision",
)

results = Table(
    "results",
    metadata,
    Column("result_key", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("model_name", String(64), nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("simulation", Boolean, nullable=False),
    Column("findings", JSON, nullable=False),  # contracts.FindingsProduced
    Column("created_at", Instant, nullable=False),
    comment="results",
)

encodings = Table(
    "encodings",
    metadata,
    Column("result_key", String(64), primary_key=True),
    Column("format", String(8), primary_key=True),  # hilum.domain.results.Format
    Column("identity", String(128), nullable=False),  # SOP Instance UID, bundle identifier, MSH-10
    Column("sha256", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
    ForeignKeyConstraint(["result_key"], ["results.result_key"]),
    comment="results: the bytes that are sent and resent as they are",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("result_key", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("destination", String(64), nullable=False),
    Column("format", String(8), nullable=False),
    Column("state", String(12), nullable=False),  # hilum.domain.results.DeliveryState
    Column("attempts", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("lease_until", Instant),
    Column("due_at", Instant, nullable=False),
    Column("reason", Text, nullable=False),  # the peer's last words, or why it is withheld or parked
    Column("created_at", Instant, nullable=False),
    Column("accepted_at", Instant),
    UniqueConstraint("result_key", "destination", "format"),
    Index("ix_deliveries_due", "destination", "state", "due_at"),
    Index(
        "ix_deliveries_parked",
        "study_instance_uid",
        sqlite_where=text("state = 'parked'"),
        postgresql_where=text("state = 'parked'"),
    ),
    comment="results",
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", _RowId, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("started_at", Instant, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("outcome", String(16), nullable=False),  # accepted, retry, parked
    Column("words", Text, nullable=False),
    comment="results",
)
