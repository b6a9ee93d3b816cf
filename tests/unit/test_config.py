"""Configuration: precedence, refusals of what is not known, and the printed reference."""

import tomllib
from pathlib import Path

import pytest

from bedplate.address import Address
from bedplate.server.config import Config, ConfigError, failpoint_spec, load, reference


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("BEDPLATE_"):
            monkeypatch.delenv(name)


def write(directory: Path, text: str) -> Path:
    path = directory / "bedplate.toml"
    path.write_text(text)
    return path


def test_flag_wins_over_environment_wins_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path, '[server]\ngrpc = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\ndrain_timeout = 1\n'
    )
    monkeypatch.setenv("BEDPLATE_SERVER__GRPC", "127.0.0.1:2")
    monkeypatch.setenv("BEDPLATE_SERVER__HTTP", "127.0.0.1:2")
    config = load(file, {"server": {"grpc": "127.0.0.1:3"}})
    assert config.server.grpc == Address("127.0.0.1", 3)
    assert config.server.http == Address("127.0.0.1", 2)
    assert config.server.drain_timeout == 1.0


def test_sizes_are_numbers_or_text_with_a_unit(tmp_path: Path) -> None:
    file = write(tmp_path, '[log]\nsegment_size = "16MiB"\n[index]\nmemory_max = 4096\n')
    config = load(file, {})
    assert (config.log.segment_size, config.index.memory_max) == (16 << 20, 4096)


def test_durability_names_an_interval(tmp_path: Path) -> None:
    assert load(None, {}).log.interval_ms == 0
    assert load(None, {"log": {"durability": "interval:250"}}).log.interval_ms == 250


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[log]\ndurabilty = "fsync"\n', "unknown configuration key log.durabilty (file "),
        ("[lag]\nx = 1\n", "unknown configuration key lag (file "),
        ("loose = 1\n", "unknown configuration key loose (file "),
        ('[log]\ndurability = "never"\n', "configuration key log.durability: expected"),
        ('[server]\ngrpc = "7420"\n', "configuration key server.grpc: expected HOST:PORT"),
        (
            "[limits]\nkey_bytes_max = 4097\n",
            "configuration key limits.key_bytes_max: input should",
        ),
        ("server = 1\n", "configuration key server: expected a section"),
        ('[server]\ndata_dir = ""\n', "configuration key server.data_dir: empty"),
        ("[log\n", "cannot read configuration file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_key(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, text), {})
    message = str(refused.value)
    assert message.startswith(expected)
    assert "\n" not in message
    assert "bedplate.toml" in message


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("BEDPLATE_LOG__DURABILTY", "unknown configuration key log.durabilty"),
        ("BEDPLATE_LAG__X", "unknown configuration key lag.x"),
        ("BEDPLATE_LOG__DURABILITY", "configuration key log.durability: expected"),
    ],
)
def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv(variable, "never")
    with pytest.raises(ConfigError) as refused:
        load(None, {})
    assert str(refused.value).startswith(expected)
    assert f"(environment variable {variable})" in str(refused.value)


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown configuration key log\.x \(command line\)"):
        load(None, {"log": {"x": "1"}})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.toml", {})


def test_variables_of_other_programs_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEDPLATE_TEST_STRICT", "1")
    assert load(None, {}) == load(None, {})


def test_failpoints_come_from_the_environment_by_their_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, '[failpoints]\n"checkpoint.dir_sync" = "crash@1"\n')
    monkeypatch.setenv("BEDPLATE_FAILPOINTS__LOG_HEADER_WRITE", "eio@3")
    spec = failpoint_spec(load(file, {}).failpoints)
    assert spec == "checkpoint.dir_sync=crash@1;log.header_write=eio@3"


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load(None, {}).server.data_dir == tmp_path / "bedplate"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(None, {}).server.data_dir == tmp_path / ".local" / "state" / "bedplate"


def test_the_reference_is_complete_and_true(tmp_path: Path) -> None:
    text = reference()
    assert load(write(tmp_path, text), {}) == load(None, {})
    uncommented = "\n".join(
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in text.splitlines()
        if not line.startswith("#data_dir")
    )
    parsed = tomllib.loads(uncommented)
    assert set(parsed) == set(Config.model_fields)
    assert load(write(tmp_path, uncommented), {}) == load(None, {})


def test_every_key_is_described() -> None:
    for name, field in Config.model_fields.items():
        annotation = field.annotation
        if name == "failpoints":
            assert field.description
            continue
        assert isinstance(annotation, type)
        for key, item in annotation.model_fields.items():
            assert item.description, f"{name}.{key}"
