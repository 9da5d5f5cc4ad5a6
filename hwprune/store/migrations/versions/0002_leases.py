"""Leases of devices."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("device", sa.String(255), primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("holder", sa.String(512), nullable=False),
        sa.Column("process", sa.String(255), nullable=False),
        sa.Column("since_s", sa.Float, nullable=False),
        sa.Column("heartbeat", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("leases")
