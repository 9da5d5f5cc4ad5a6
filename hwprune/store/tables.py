"""The store's tables as the newest migration leaves them."""

import sqlalchemy as sa

#: The newest migration in migrations/versions; a store of an older revision is migrated when it is opened.
#: 0001: measurements of networks and kernels.
#: 0002: leases of devices.
#: 0003: accuracies of candidates.
SCHEMA_REVISION = "0003"

metadata = sa.MetaData()

#: One row a measurement, never changed nor deleted. What is looked up has a column; the whole record is the payload.
measurements = sa.Table(
    "measurements",
    metadata,
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
    sa.Column("measured_at_s", sa.Float, nullable=False, doc="seconds since 1970, UTC"),
    sa.Column("error", sa.Text),
    sa.Column("layer_shape", sa.JSON(none_as_null=True), doc="null for whole networks"),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Index("ix_measurements_key", "key", "conditions_digest"),
    sa.Index("ix_measurements_fingerprint", "fingerprint", "schedule_version"),
)

#: One row a device that is in use; see `leases.py`.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("device", sa.String(255), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("holder", sa.String(512), nullable=False),
    sa.Column("process", sa.String(255), nullable=False),
    sa.Column("since_s", sa.Float, nullable=False, doc="seconds since 1970, UTC, by the holder's clock"),
    sa.Column("heartbeat", sa.Integer, nullable=False),
)

#: One row for all that accuracies depend on beside the plan; see `accuracies.py`.
accuracy_protocols = sa.Table(
    "accuracy_protocols",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("facts", sa.JSON, nullable=False),
)

#: One row an accuracy, never changed nor deleted.
accuracies = sa.Table(
    "accuracies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("protocol", sa.String(64), nullable=False),
    sa.Column("plan_key", sa.String(64), nullable=False),
    sa.Column("widths", sa.JSON, nullable=False),
    sa.Column("metric", sa.Float, nullable=False),
    sa.Column("images", sa.Integer, doc="null for the whole split"),
    sa.Column("found_at_s", sa.Float, nullable=False, doc="seconds since 1970, UTC"),
    sa.Index("ix_accuracies_plan", "protocol", "plan_key"),
)
