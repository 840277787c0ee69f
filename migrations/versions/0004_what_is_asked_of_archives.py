"""What Hilum asks archives for: missing images and earlier studies

Expands only: a new table, so the release before goes on with the same database.
"""

import sqlalchemy as sa
from alembic import op

from hilum.adapters.sql.schema import refuse_to_lose

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retrievals",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("target_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("archive", sa.String(length=64), nullable=False),
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("came", sa.Integer(), nullable=False),
        sa.Column("study_date", sa.String(length=8), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("study_instance_uid", "kind", "target_uid", name=op.f("pk_retrievals")),
        comment="listener/fetch: what it asks archives for; assemble only reads",
    )
    with op.batch_alter_table("retrievals", schema=None) as batch_op:
        batch_op.create_index("ix_retrievals_state", ["state", "due_at"], unique=False)
        batch_op.create_index("ix_retrievals_target", ["target_uid", "kind"], unique=False)


def downgrade() -> None:
    refuse_to_lose(op.get_bind(), "retrievals")
    with op.batch_alter_table("retrievals", schema=None) as batch_op:
        batch_op.drop_index("ix_retrievals_target")
        batch_op.drop_index("ix_retrievals_state")
    op.drop_table("retrievals")
