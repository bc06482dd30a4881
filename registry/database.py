"""The catalog's records in a SQL database: SQLite in WAL mode, through SQLAlchemy.

What a method returned is on the disk: every transaction is synced before it is acknowledged (synchronous=FULL), and one
that was not acknowledged leaves nothing behind. Writers take SQLite's write lock when they begin, so the number that a
writer read is still the last one when it writes. All methods block: call them from a worker thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any  # rows of SQLAlchemy Core and the DB-API's connections are not typed

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from mesh.errors import Conflict, DiskFull, InvalidInput, MeshError, Unavailable
from registry.catalog import DeploymentRecord, Model, ModelVersion, PromptVersion, check_generation

_BUSY_TIMEOUT_S = 5.0

_schema = sa.MetaData()

_model_versions = sa.Table(
    "model_versions",
    _schema,
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("artifact_uri", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("model_format", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),  # microseconds since 1970, UTC
)
_model_aliases = sa.Table(
    "model_aliases",
    _schema,
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["model_name", "version"], ["model_versions.model_name", "model_versions.version"]),
)
_prompt_versions = sa.Table(
    "prompt_versions",
    _schema,
    sa.Column("prompt_name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("commit_message", sa.Text, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
)
_deployments = sa.Table(
    "deployments",
    _schema,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("spec", sa.Text, nullable=True),  # null: deleted; the row keeps the generation
)
_seeds = sa.Table(
    "deployment_seeds",
    _schema,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),  # as a file gave it, whatever became of the deployment since
)


class Database:
    """A Store (registry/catalog.py). Owns its connections."""

    def __init__(self, url: str) -> None:
        """Open the database and make what is missing in it. Raises InvalidInput, DiskFull and Unavailable."""
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise InvalidInput(f"database '{url}' is not a URL like sqlite:////path/registry.db") from None
        if parsed.get_backend_name() != "sqlite":
            raise InvalidInput(
                f"database '{parsed.render_as_string()}' is not supported; use sqlite:////path/registry.db"
            )
        if not parsed.database or parsed.database == ":memory:":
            raise InvalidInput(f"database '{url}' names no file; what is stored must outlive the process")
        self._where = parsed.render_as_string()
        with self._errors():
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = _open_engine(parsed)
            _schema.create_all(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add_model_version(self, version: ModelVersion) -> ModelVersion:
        with self._write() as connection:
            stored = replace(version, version=_last_model_version(connection, version.model_name) + 1)
            connection.execute(sa.insert(_model_versions).values(**_model_version_row(stored)))
        return stored

    def model_version(self, model_name: str, version: int) -> ModelVersion | None:
        table = _model_versions.c
        query = sa.select(_model_versions).where(table.model_name == model_name, table.version == version)
        with self._read() as connection:
            row = connection.execute(query).first()
        return _model_version(row) if row else None

    def models(self) -> Sequence[Model]:
        versions: dict[str, list[ModelVersion]] = {}
        aliases: dict[str, dict[str, int]] = {}
        ordered = sa.select(_model_versions).order_by(_model_versions.c.model_name, _model_versions.c.version)
        with self._read() as connection:
            for row in connection.execute(ordered):
                versions.setdefault(row.model_name, []).append(_model_version(row))
            for row in connection.execute(sa.select(_model_aliases)):
                aliases.setdefault(row.model_name, {})[row.alias] = row.version
        return [Model(name, of_model, aliases.get(name, {})) for name, of_model in versions.items()]

    def last_model_version(self, model_name: str) -> int:
        with self._read() as connection:
            return _last_model_version(connection, model_name)

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        table = _model_aliases.c
        with self._write() as connection:
            connection.execute(sa.delete(_model_aliases).where(table.model_name == model_name, table.alias == alias))
            connection.execute(sa.insert(_model_aliases).values(model_name=model_name, alias=alias, version=version))

    def alias(self, model_name: str, alias: str) -> int | None:
        table = _model_aliases.c
        query = sa.select(table.version).where(table.model_name == model_name, table.alias == alias)
        with self._read() as connection:
            return connection.execute(query).scalar()

    def add_prompt_version(self, version: PromptVersion) -> PromptVersion:
        with self._write() as connection:
            stored = replace(version, version=_last_prompt_version(connection, version.prompt_name) + 1)
            connection.execute(sa.insert(_prompt_versions).values(**_prompt_version_row(stored)))
        return stored

    def prompt_version(self, prompt_name: str, version: int) -> PromptVersion | None:
        table = _prompt_versions.c
        query = sa.select(_prompt_versions).where(table.prompt_name == prompt_name, table.version == version)
        with self._read() as connection:
            row = connection.execute(query).first()
        return _prompt_version(row) if row else None

    def last_prompt_version(self, prompt_name: str) -> int:
        with self._read() as connection:
            return _last_prompt_version(connection, prompt_name)

    def put_deployment(self, name: str, spec: str, expected_generation: int = 0) -> tuple[DeploymentRecord, bool]:
        with self._write() as connection:
            row = connection.execute(sa.select(_deployments).where(_deployments.c.name == name)).first()
            check_generation(name, 0 if row is None or row.spec is None else row.generation, expected_generation)
            if row is not None and row.spec == spec:
                return DeploymentRecord(name, row.generation, spec), False
            if row is None:
                record = DeploymentRecord(name, 1, spec)
                statement: sa.Insert | sa.Update = sa.insert(_deployments)
            else:
                record = DeploymentRecord(name, row.generation + 1, spec)
                statement = sa.update(_deployments).where(_deployments.c.name == name)
            connection.execute(statement.values(name=name, generation=record.generation, spec=spec))
        return record, True

    def delete_deployment(self, name: str) -> bool:
        table = _deployments.c
        with self._write() as connection:
            statement = sa.update(_deployments).where(table.name == name, table.spec.is_not(None)).values(spec=None)
            return connection.execute(statement).rowcount > 0

    def deployments(self) -> Sequence[DeploymentRecord]:
        table = _deployments.c
        query = sa.select(_deployments).where(table.spec.is_not(None)).order_by(table.name)
        with self._read() as connection:
            return [DeploymentRecord(row.name, row.generation, row.spec) for row in connection.execute(query)]

    def seed(self, name: str) -> str | None:
        with self._read() as connection:
            row = connection.execute(sa.select(_seeds.c.spec).where(_seeds.c.name == name)).first()
            return None if row is None else str(row.spec)

    def put_seed(self, name: str, spec: str) -> None:
        with self._write() as connection:
            connection.execute(sa.delete(_seeds).where(_seeds.c.name == name))
            connection.execute(sa.insert(_seeds).values(name=name, spec=spec))

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction: committed and on the disk when the block ends, undone when it raises."""
        with self._errors(), self._engine.connect() as connection:
            writing = connection.execution_options(is_writer=True)
            with writing.begin():
                yield writing

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise Conflict("another writer stored the same number at the same time; try again") from error
        except DBAPIError as error:
            raise _as_mesh_error(str(error.orig), self._where) from error
        except (OSError, NoSuchModuleError) as error:
            raise _as_mesh_error(str(error), self._where) from error


def _open_engine(url: sa.URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_writer = connection.get_execution_options().get("is_writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _as_mesh_error(reason: str, where: str) -> MeshError:
    if "disk is full" in reason or "No space left" in reason:
        return DiskFull("the registry's disk is full; nothing was stored")
    return Unavailable(f"the registry's database {where} cannot be used now: {reason}")


def _last_model_version(connection: Connection, model_name: str) -> int:
    table = _model_versions.c
    query = sa.select(sa.func.max(table.version)).where(table.model_name == model_name)
    return connection.execute(query).scalar() or 0


def _last_prompt_version(connection: Connection, prompt_name: str) -> int:
    table = _prompt_versions.c
    query = sa.select(sa.func.max(table.version)).where(table.prompt_name == prompt_name)
    return connection.execute(query).scalar() or 0


def _model_version_row(version: ModelVersion) -> dict[str, object]:
    return {
        "model_name": version.model_name,
        "version": version.version,
        "artifact_uri": version.artifact_uri,
        "sha256": version.sha256,
        "model_format": version.model_format,
        "tags": dict(version.tags),
        "created_at_us": _to_us(version.created_at),
    }


def _model_version(row: Any) -> ModelVersion:
    return ModelVersion(
        model_name=row.model_name,
        version=row.version,
        artifact_uri=row.artifact_uri,
        sha256=row.sha256,
        model_format=row.model_format,
        tags=row.tags,
        created_at=_from_us(row.created_at_us),
    )


def _prompt_version_row(version: PromptVersion) -> dict[str, object]:
    return {
        "prompt_name": version.prompt_name,
        "version": version.version,
        "template": version.template,
        "commit_message": version.commit_message,
        "created_at_us": _to_us(version.created_at),
    }


def _prompt_version(row: Any) -> PromptVersion:
    return PromptVersion(
        prompt_name=row.prompt_name,
        version=row.version,
        template=row.template,
        commit_message=row.commit_message,
        created_at=_from_us(row.created_at_us),
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _to_us(moment: datetime | None) -> int:
    if moment is None:
        raise ValueError("a record without its time cannot be stored")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _from_us(microseconds: int) -> datetime:
    seconds, rest = divmod(microseconds, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
