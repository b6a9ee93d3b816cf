"""The tokens file, and when the daemon may listen without one."""

import hashlib
from pathlib import Path

import pytest

from bedplate.address import Address
from bedplate.errors import StartupError
from bedplate.server.auth import TokensError, check_exposure, read_tokens

HASH = hashlib.sha256(b"secret").hexdigest()


def write(directory: Path, text: str) -> Path:
    path = directory / "tokens"
    path.write_text(text)
    return path


def test_a_token_has_a_name_a_hash_and_scopes(tmp_path: Path) -> None:
    path = write(tmp_path, f"# people\n\nci  {HASH.upper()}  kv:read,object:*  # the pipeline\n")
    (token,) = read_tokens(path)
    assert token.name == "ci"
    assert token.sha256 == hashlib.sha256(b"secret").digest()
    assert token.scopes == {"kv:read", "object:read", "object:write", "object:admin"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "names no token"),
        ("ci secret kv:read\n", "line 1: expected the SHA-256"),
        (f"\nci {HASH}\n", "line 2: expected NAME SHA256 SCOPE"),
        (f"ci {HASH} kv:reed\n", 'line 1: unknown scope "kv:reed"'),
        (f"ci {HASH} *\n", 'line 1: unknown scope "*"'),
        (f"ci {HASH} k*\n", 'line 1: unknown scope "k*"'),
        (f"ci {HASH} kv:read,\n", 'line 1: unknown scope ""'),
        (f"a {HASH} kv:read\nb {HASH} kv:write\n", "names one token twice"),
    ],
)
def test_a_bad_file_is_refused_as_a_whole(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(TokensError) as refused:
        read_tokens(write(tmp_path, text))
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match="No such file"):
        read_tokens(tmp_path / "absent")


@pytest.mark.parametrize(
    ("host", "has_tokens", "allow_anonymous", "refused"),
    [
        ("127.0.0.1", False, False, False),
        ("0.0.0.0", False, False, True),
        ("0.0.0.0", True, False, False),
        ("0.0.0.0", False, True, False),
        ("::", False, False, True),
    ],
)
def test_nobody_listens_to_the_world_without_tokens_by_accident(
    host: str, has_tokens: bool, allow_anonymous: bool, refused: bool
) -> None:
    addresses = (Address("127.0.0.1", 1), Address(host, 2))
    if refused:
        with pytest.raises(StartupError, match="allow_anonymous"):
            check_exposure(addresses, has_tokens=has_tokens, allow_anonymous=allow_anonymous)
    else:
        check_exposure(addresses, has_tokens=has_tokens, allow_anonymous=allow_anonymous)
