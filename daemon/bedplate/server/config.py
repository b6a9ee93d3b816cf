"""The daemon's configuration: every section, where values come from, and the printed reference.

    --data-dir, --grpc, --http, --set SECTION.KEY=VALUE      wins over
    BEDPLATE_<SECTION>__<KEY>                                wins over
    the TOML file named by --config                          wins over the defaults here

A key that no section has is an error wherever it stands. `load` raises ConfigError with one line.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bedplate.address import Address, AddressField
from bedplate.consensus.config import ClusterConfig, RaftConfig
from bedplate.errors import StartupError
from bedplate.storage.admin.config import AdminConfig
from bedplate.storage.config import MIB, Section, StorageConfig
from bedplate.storage.objects.config import ObjectsConfig

PREFIX = "BEDPLATE_"
DELIMITER = "__"
# What the tests of this project read; a daemon started beside them does not mind.
TEST_VARIABLES = frozenset(
    {
        "BEDPLATE_ETCD_OPERATIONS",
        "BEDPLATE_KILL_ROUNDS",
        "BEDPLATE_MODEL_EXAMPLES",
        "BEDPLATE_MODEL_SHRINK",
        "BEDPLATE_TEST_STRICT",
    }
)


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("empty")  # as a Path it would be the working directory
    return value


OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_none)]
RequiredPath = Annotated[Path, BeforeValidator(_not_empty)]


class ConfigError(StartupError):
    """A configuration that cannot be used; the message names the key and where it was set."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="CONFIG_INVALID")


def default_data_dir() -> Path:
    """$XDG_STATE_HOME/bedplate, or ~/.local/state/bedplate."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "bedplate"


class ServerConfig(Section):
    """The process: where it keeps data and where it listens."""

    data_dir: RequiredPath = Field(
        default_factory=default_data_dir,
        examples=["~/.local/state/bedplate"],
        description="Directory of all data; made with mode 0700. The store is below it in store/. "
        "Default: $XDG_STATE_HOME/bedplate where that is set.",
    )
    grpc: AddressField = Field(
        default=Address("127.0.0.1", 7420),
        description="HOST:PORT of every gRPC service. Port 0 takes a free one.",
    )
    http: AddressField = Field(
        default=Address("127.0.0.1", 7421),
        description="HOST:PORT of /metrics, /healthz and /readyz. They need no token: expose them "
        "to a private network only.",
    )
    drain_timeout: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds that calls in flight have to finish after SIGTERM.",
    )
    address_file: OptionalPath = Field(
        default=None,
        description='File to write {"grpc": "HOST:PORT", "http": "HOST:PORT", "pid": N} to once '
        "the daemon serves; removed at a clean stop. Default: none.",
    )


class AuthConfig(Section):
    """Who may call."""

    tokens_file: OptionalPath = Field(
        default=None,
        description="File of bearer tokens, hashed; see README. Read again on SIGHUP. Default: "
        "none, every call is allowed.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Listen on an address that is not loopback although there are no tokens.",
    )


class TLSConfig(Section):
    """TLS of the gRPC port; with client_ca, clients must show a certificate (mTLS)."""

    cert: OptionalPath = Field(
        default=None, description="PEM file of the server's certificate chain. Default: no TLS."
    )
    key: OptionalPath = Field(default=None, description="PEM file of its private key.")
    client_ca: OptionalPath = Field(
        default=None, description="PEM file of the authorities that sign client certificates."
    )


class TelemetryConfig(Section):
    """Logging."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe record that is written."
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto",
        description='"auto": pretty on a terminal, one JSON object a line elsewhere.',
    )
    log_calls: bool = Field(default=False, description="Write one record for every call.")


class Config(BaseSettings, StorageConfig):
    """All sections. Built by `load`; every value is validated and none changes afterwards."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    server: ServerConfig = Field(default_factory=ServerConfig)
    objects: ObjectsConfig = ObjectsConfig()
    admin: AdminConfig = AdminConfig()
    cluster: ClusterConfig = ClusterConfig()
    raft: RaftConfig = RaftConfig()
    auth: AuthConfig = AuthConfig()
    tls: TLSConfig = TLSConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    failpoints: dict[str, str] = Field(
        default_factory=dict,
        description="For tests: faults by the name of a persistence step, such as "
        '"log.sync" = "eio@3" (in the environment BEDPLATE_FAILPOINTS__LOG_SYNC=eio@3).',
    )


Flags = Mapping[str, Mapping[str, str]]


def load(file: Path | None, flags: Flags) -> Config:
    """Read the file, the environment and the flags. Raises ConfigError."""
    content = _read_file(file)
    _refuse_unknown_variables(os.environ)

    class Loaded(Config):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            if file is None:
                return init_settings, env_settings
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        given: dict[str, Any] = {section: dict(keys) for section, keys in flags.items()}
        return Config.model_construct(**dict(Loaded(**given)))
    except ValidationError as error:
        raise ConfigError(_one_line(error, flags, content, file)) from error


def failpoint_spec(failpoints: Mapping[str, str]) -> str:
    """The engine's text for configured failpoints: "log.sync=eio@3;...". Names from the environment
    have an underscore for the first dot.
    """
    names = {name if "." in name else name.replace("_", ".", 1): name for name in failpoints}
    return ";".join(f"{site}={failpoints[name]}" for site, name in sorted(names.items()))


def reference() -> str:
    """Every key with its meaning and default, as a TOML file that sets nothing."""
    own = list(Config.__annotations__)
    names = own[:1] + list(StorageConfig.model_fields) + own[1:]
    return "\n".join(line for name in names for line in _section_reference(name))


def _section_reference(name: str) -> Iterator[str]:
    field = Config.model_fields[name]
    section = field.annotation
    if not (isinstance(section, type) and issubclass(section, Section)):
        yield from (f"# {field.description}", f"[{name}]", "")
        return
    yield from (f"# {(section.__doc__ or '').strip()}", f"[{name}]")
    for key, item in section.model_fields.items():
        default = (item.examples or [item.default])[0]
        yield from (f"# {item.description}", f"#{key} = {_toml(default)}")
    yield ""


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case ByteSize() if value and value % MIB == 0:
            return f'"{value // MIB}MiB"'
        case int() | float():
            return str(value)
        case None:
            return '""'
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return f'"{value}"'


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read configuration file {file}: {reason}") from error
    for section, keys in content.items():  # a flag for the section would hide it
        if section in Config.model_fields and not isinstance(keys, dict):
            raise ConfigError(
                f"configuration key {section}: expected a section of keys (file {file})"
            )
    return content


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """pydantic-settings passes over variables that fit no section; a typing error is not one."""
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in TEST_VARIABLES:
            continue
        section, delimiter, key = variable.removeprefix(PREFIX).partition(DELIMITER)
        if not delimiter:
            raise ConfigError(
                f"unknown environment variable {variable}: "
                f"expected {PREFIX}<SECTION>{DELIMITER}<KEY>"
            )
        if section.lower() not in Config.model_fields:
            name = f"{section}.{key}".lower()
            raise ConfigError(f"unknown configuration key {name} (environment variable {variable})")


def _one_line(
    error: ValidationError, flags: Flags, content: Mapping[str, Any], file: Path | None
) -> str:
    """The first problem, with the key and where it was set."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path[:2])
    source = _source(path, flags, content, file)
    if first["type"] == "extra_forbidden":
        return f"unknown configuration key {key} ({source})"
    message = first["msg"].removeprefix("Value error, ")
    return f"configuration key {key}: {message[:1].lower()}{message[1:]} ({source})"


def _source(path: list[str], flags: Flags, content: Mapping[str, Any], file: Path | None) -> str:
    section, key = path[0], path[1] if len(path) > 1 else ""
    if section in flags and key in (*flags[section], ""):
        return "command line"
    variable = (PREFIX + DELIMITER.join(path[:2])).upper()
    if any(name.upper() == variable for name in os.environ):
        return f"environment variable {variable}"
    return f"file {file}" if section in content else "default"
