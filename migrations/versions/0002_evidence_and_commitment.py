"""What completeness and storage commitment are decided from

Expands only: new tables and a column that may be null, so 0.2 goes on with the same database.
"""

import sqlalchemy as sa
from alembic import op

from hilum.adapters.sql.schema import refuse_to_lose

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "availability_notices",
        sa.Column("notice", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("notice", "study_instance_uid", name=op.f("pk_availability_notices")),
        comment="listener/assemble: instance availability notifications",
    )
    with op.batch_alter_table("availability_notices", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_availability_notices_study_instance_uid"), ["study_instance_uid"], unique=False
        )
    op.create_table(
        "commitment_requests",
        sa.Column("notice", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("notice", name=op.f("pk_commitment_requests")),
        comment="listener/assemble takes them in and decides them; listener/commit reports",
    )
    with op.batch_alter_table("commitment_requests", schema=None) as batch_op:
        batch_op.create_index("ix_commitment_requests_state", ["state", "due_at"], unique=False)
    op.create_table(
        "commitments",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("basis", sa.String(length=8), nullable=False),
        sa.Column("committed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_commitments")),
        comment="listener/assemble: what Hilum answered for; retention never deletes it",
    )
    op.create_table(
        "committed_elsewhere",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", "calling_ae", name=op.f("pk_committed_elsewhere")),
        comment="listener/assemble: what others answer for, from their N-EVENT-REPORTs",
    )
    op.create_table(
        "procedure_steps",
        sa.Column("step_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=128), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("step_uid", "study_instance_uid", name=op.f("pk_procedure_steps")),
        comment="listener/assemble: modality performed procedure steps",
    )
    with op.batch_alter_table("procedure_steps", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_procedure_steps_study_instance_uid"), ["study_instance_uid"], unique=False)
    op.create_table(
        "study_senders",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "association", name=op.f("pk_study_senders")),
        comment="listener/assemble: the associations that brought images of a study since its newest revision",
    )
    with op.batch_alter_table("study_senders", schema=None) as batch_op:
        batch_op.create_index("ix_study_senders_association", ["association"], unique=False)
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("receiving_since", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    refuse_to_lose(
        op.get_bind(),
        "commitments",
        "commitment_requests",
        "committed_elsewhere",
        "procedure_steps",
        "availability_notices",
    )
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.drop_column("receiving_since")
    with op.batch_alter_table("study_senders", schema=None) as batch_op:
        batch_op.drop_index("ix_study_senders_association")
    op.drop_table("study_senders")
    with op.batch_alter_table("procedure_steps", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_procedure_steps_study_instance_uid"))
    op.drop_table("procedure_steps")
    op.drop_table("committed_elsewhere")
    op.drop_table("commitments")
    with op.batch_alter_table("commitment_requests", schema=None) as batch_op:
        batch_op.drop_index("ix_commitment_requests_state")
    op.drop_table("commitment_requests")
    with op.batch_alter_table("availability_notices", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_availability_notices_study_instance_uid"))
    op.drop_table("availability_notices")
