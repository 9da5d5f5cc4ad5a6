"""Measurements of networks and kernels."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "measurements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("conditions_digest", sa.String(64), nullable=False),
        sa.Column("device", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("schedule_version", sa.String(255), nullable=False),
        sa.Column("protocol_version", sa.Integer, nullable=False),
        sa.Column("trust", sa.String(1), nullable=False),
        sa.Column("latency_ms", sa.Float),
        sa.Column("measured_at_s", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("layer_shape", sa.JSON(none_as_null=True)),
        sa.Column("payload", sa.JSON, nullable=False),
    )
    op.create_index("ix_measurements_key", "measurements", ["key", "conditions_digest"])
    op.create_index("ix_measurements_fingerprint", "measurements", ["fingerprint", "schedule_version"])


def downgrade() -> None:
    op.drop_table("measurements")
