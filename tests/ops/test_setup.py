"""``gridsync setup``: what an operator gets, and what is never overwritten."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from cryptography import x509
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync import Grid
from gridsync.ops import acl, files, tls
from gridsync.ops.conf import PORT
from gridsync.ops.layout import DATA, ENVIRONMENTS, HOSTS, PASSWORDS, Layout
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.command import called, forget_test_run
from tests.ops.helpers import Configured, ConfiguredSet, kind_of


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_everything_is_written_for_its_owner_alone(tmp_path: Path):
    code, said, _ = called("setup", str(tmp_path / "new"), "--json")
    outcome = json.loads(said)
    layout = Layout(tmp_path / "new")
    assert (code, outcome["new"], outcome["root"]) == (0, True, str(layout.root))
    assert set(outcome["files"]) == set(contents(layout.root))
    assert {role for role in PASSWORDS if len(layout.password(role).read_text().strip()) > 40} == set(PASSWORDS)
    assert {path.name for path in (layout.root / "data").iterdir()} == set(DATA)
    for path in [layout.root, *layout.root.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    texts = [*map(layout.env, ENVIRONMENTS), *layout.conf("redis.conf").parent.iterdir()]
    for path in (layout.users, layout.sentinel_users, *texts):
        written = path.read_text()
        assert not any(layout.password(role).read_text().strip() in written for role in PASSWORDS), path
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_commands_that_it_prints_are_on_the_port_that_clients_are_told(tmp_path: Path):
    """The configuration has the usual port, for the containers; an operator who says another starts what is printed."""
    _, said, _ = called("setup", str(tmp_path / "usual"))
    assert "redis.conf\n" in said
    assert "cache.conf --tls-port 6380\n" in said
    _, said, _ = called("setup", str(tmp_path / "other"), "--port", "7000")
    assert "redis.conf --tls-port 7000\n" in said
    assert "cache.conf --tls-port 7001\n" in said
    assert ":7000/" in (tmp_path / "other/gridsync.env").read_text()


def test_the_commands_that_it_prints_name_files_that_are_there(tmp_path: Path):
    """Also of a folder whose name has a space: they are copied into a shell."""
    _, output, _ = called("setup", str(tmp_path / "my servers"))
    named = [word for line in output.splitlines()[1:] for word in shlex.split(line.replace(";", " ")) if "/" in word]
    assert len(named) == 4
    assert all(Path(word).is_file() for word in named)


def test_a_second_run_changes_nothing_and_says_so(made: Path):
    before = contents(made)
    code, said, _ = called("setup", str(made))
    assert (code, said) == (0, f"{made}: everything is there, nothing was changed\n")
    assert contents(made) == before


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda made: (made / "conf/redis.conf").write_text("port 6379\n"), "conf/redis.conf is not what setup writes"),
        (lambda made: (made / "secrets/app.password").write_text("mine\n"), "acl/users.acl is not what setup writes"),
        (lambda made: (made / "acl/users.acl").unlink(), "lacks acl/users.acl"),
        (lambda made: (made / "tls/server.key").unlink(), "lacks tls/server.key"),
        (lambda made: shutil.copy(made / "tls/ca.key", made / "tls/server.key"), "is not the key of tls/server.crt"),
        (lambda made: (made / "tls/client.crt").write_text("none"), "cannot be read"),
        (lambda made: (made / "setup.json").unlink(), "is not empty, and not from gridsync setup"),
        (lambda made: (made / "setup.json").write_text("{"), "is not empty, and not from gridsync setup"),
        (lambda made: (made / "secrets/app.password").chmod(0o644), "can be read by others"),
        (lambda made: (made / "secrets").chmod(0o777), "others may write into"),
        (lambda made: (made / "conf/redis.conf").write_bytes(b"\xff"), "conf/redis.conf is not what setup writes"),
        (lambda made: (made / "secrets/app.password").write_bytes(b"\xff"), "is not what setup writes"),
        (lambda made: (made / "rotation.json").write_text("{}"), "are being changed"),
    ],
)
def test_what_differs_or_is_half_there_is_refused_and_left_alone(damage: object, what: str, made: Path):
    damage(made)  # type: ignore[operator]
    before = contents(made)
    code, said, complaint = called("setup", str(made))
    first, second, *more = complaint.splitlines()
    assert (code, said, more) == (2, "", [])
    assert what in first
    assert second.startswith("  ")
    assert contents(made) == before


def test_a_folder_that_may_not_be_read_is_said(made: Path, monkeypatch: pytest.MonkeyPatch):
    """Else whoever is not its owner is told that it is not from setup, or nothing at all."""

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(made), "read_bytes", refuse)
    code, _, complaint = called("setup", str(made))
    assert (code, "setup.json cannot be read: Permission denied" in complaint) == (2, True)
    assert "as whoever owns" in complaint.splitlines()[1]


def test_a_full_disk_is_said_with_the_name_of_the_file_and_leaves_nothing(tmp_path: Path):
    """As a limit on the size of a file: the error of the system names none."""
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30)); "
        "runpy.run_module('gridsync.cli', run_name='__main__')"
    )
    words = [sys.executable, "-c", limited, "setup", str(tmp_path / "new")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2), done.stderr
    assert "/.new.setup/" in done.stderr
    assert "None" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_plan_is_refused_and_named(made: Path):
    code, _, complaint = called("setup", str(made), "--host", "db.example.org")
    assert code == 2
    assert "hosts is [] there and ['db.example.org'] here" in complaint


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--host", "no host"), "'no host' is neither a host name nor an address"),
        (("--maxmemory", "lots"), "'lots' is no size of memory"),
        (("--owner", "redis"), "is not UID:GID"),
        (("--like", "redis://127.0.0.1:1"), "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_used_leaves_nothing_behind(words: tuple[str, ...], what: str, tmp_path: Path):
    code, said, complaint = called("setup", str(tmp_path / "new"), *words)
    assert (code, said, len(complaint.splitlines())) == (2, "", 2)
    assert what in complaint
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_give_files_away_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 54_321)
    code, said, complaint = called("setup", str(tmp_path / "new"), "--owner", "999:1000")
    assert (code, said, len(complaint.splitlines())) == (2, "", 2)
    assert "only root may give files to another owner" in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("where", "what"), [("no/such/folder", "there is no folder"), ("file", "is a file")])
def test_a_place_that_cannot_be_is_named(where: str, what: str, tmp_path: Path):
    (tmp_path / "file").touch()
    code, _, complaint = called("setup", str(tmp_path / where))
    assert (code, what in complaint) == (2, True)


def test_an_empty_folder_may_be_there_before(tmp_path: Path):
    assert called("setup", str(tmp_path))[0] == 0
    assert Layout(tmp_path).users.is_file()


def test_a_run_that_is_killed_leaves_nothing_half_written(tmp_path: Path):
    """It is killed between any two files; what it had is out of the way for the next run."""
    program = """
import os, signal, sys
from pathlib import Path
from gridsync.ops import files
from gridsync.ops.setup import Plan, setup
real, left = files.write, [int(sys.argv[2])]
def write(*words):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*words)
files.write = write
setup(Path(sys.argv[1]), Plan())
"""
    at = tmp_path / "new"
    for written in (1, 9, 20):
        killed = subprocess.run([sys.executable, "-c", program, str(at), str(written)], check=False, timeout=60)
        assert (killed.returncode, at.exists()) == (-9, False)
    assert called("setup", str(at))[0] == 0
    assert called("setup", str(at))[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_two_runs_do_not_write_into_each_other(tmp_path: Path):
    with files.workplace(tmp_path / ".new.setup", "writing"):
        code, _, complaint = called("setup", str(tmp_path / "new"))
    assert (code, "another process is writing" in complaint) == (2, True)
    assert called("setup", str(tmp_path / "new"))[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_somebody_put_where_it_is_made_is_neither_emptied_nor_used(tmp_path: Path):
    """In a folder that others may write, a link to a home directory: all of it would be removed, and then be ours."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_text("x")
    (tmp_path / ".new.setup").symlink_to(theirs)
    code, _, complaint = called("setup", str(tmp_path / "new"))
    assert (code, "is in the way" in complaint, len(complaint.splitlines())) == (2, True, 2)
    assert [each.name for each in theirs.iterdir()] == ["precious"]
    assert not (tmp_path / "new").exists()


def test_nothing_secret_is_written_into_the_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".new.setup").mkdir()
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(files.os, "geteuid", lambda: somebody_else)
    code, _, complaint = called("setup", str(tmp_path / "new"))
    assert (code, "belongs to somebody else" in complaint) == (2, True)


def test_root_may_write_it_for_somebody_else(tmp_path: Path):
    assert called("setup", str(tmp_path / "new"), "--owner", "999:1000")[0] == 0
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]}
    assert owners == {(999, 1000)}
    assert "GRIDSYNC_UID=999\nGRIDSYNC_GID=1000\n" in (tmp_path / "new/gridsync.env").read_text()
    assert called("setup", str(tmp_path / "new"))[0] == 0


def test_the_certificates_hold_for_every_name_and_for_strict_clients(tmp_path: Path):
    """Python 3.13 refuses an authority without key usage, or a certificate without its identifiers."""
    made = tmp_path / "new"
    assert called("setup", str(made), "--host", "db.example.org", "--host", "10.0.0.7")[0] == 0
    written = {name: (made / "tls" / name).read_bytes() for name in tls.FILES}
    assert tls.flaw(written, [*HOSTS, "db.example.org", "10.0.0.7"]) == ""
    assert "does not name other.example.org" in tls.flaw(written, ["other.example.org"])
    assert "rediss://app@db.example.org:6379/0" in (made / "gridsync.env").read_text()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(made / "tls/server.crt", made / "tls/server.key")
    ours = ssl.create_default_context(cafile=str(made / "tls/ca.crt"))
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("localhost", "db.example.org", "10.0.0.7", "redis-3", "cluster-6"):
        shaken(ours, theirs, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(ours, theirs, "other.example.org")


def test_certificates_end_when_it_was_asked_for_and_are_found_to_have_ended():
    began = datetime.now(UTC).replace(microsecond=0)
    ended = tls.issue(["localhost"], 0)
    assert "tls/ca.crt has expired" in tls.flaw(ended, ["localhost"])
    lasting = tls.issue(["localhost"], 30)
    assert tls.flaw(lasting, ["localhost"]) == ""
    for name in ("ca", "server", "client"):
        certificate = x509.load_pem_x509_certificate(lasting[f"{name}.crt"])
        assert timedelta(days=30) <= certificate.not_valid_after_utc - began < timedelta(days=31)
    authority = x509.load_pem_x509_certificate(lasting["ca.crt"])
    # It signs servers and clients, and no authorities.
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def shaken(ours: ssl.SSLContext, theirs: ssl.SSLContext, host: str) -> None:
    """Let two ends of TLS greet each other, without a network."""
    to_them, to_us = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_us, to_them, server_hostname=host)
    server = theirs.wrap_bio(to_them, to_us, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.getpeercert()


def sourced(file: Path, server: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the variables of *file*, as a shell would, with the port of *server*."""
    forget_test_run(monkeypatch)
    shell = f"set -a; . {file}; env"
    environment = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout  # noqa: S607
    for line in environment.splitlines():
        if line.startswith(("REDIS_", "GRIDSYNC_")):
            name, value = line.split("=", 1)
            monkeypatch.setenv(name, value.replace(f":{PORT}/", f":{server.port}/"))


def test_a_client_finds_its_server_by_what_was_written(made: Path, monkeypatch: pytest.MonkeyPatch):
    with Configured(None, made) as server:
        sourced(made / "gridsync.env", server, monkeypatch)
        with Grid() as grid, grid.lock("job").acquire() as lease:
            assert lease.fence > 0
            assert server.command("CLIENT", "LIST").count(b"user=app") > 0


def test_an_operator_and_a_nightly_job_have_variables_of_their_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No password is typed, and none is on a command line."""
    with Configured(None, made, [("repl-diskless-sync-delay", "0")]) as server:
        sourced(made / "admin.env", server, monkeypatch)
        found = {each["what"]: each for each in json.loads(called("doctor", "--json")[1])["findings"]}
        assert found["user"]["value"] == "admin"
        assert {each["severity"] for each in found.values()} <= {"ok", "warn"}
        assert found["environment"]["severity"] == "ok", found["environment"]
        sourced(made / "backup.env", server, monkeypatch)
        code, _, error = called("backup", "--to", str(tmp_path / "backups"))
        assert code == 0, error


@pytest.mark.parametrize("kind", server_kinds(), ids=str)
def test_a_server_says_which_commands_it_knows(kind: ServerKind, tmp_path: Path):
    """Every kind that is named by --server has the file that --like writes for a server of that kind."""
    with RedisServer(kind) as server:
        with server.client() as client:
            assert acl.asked(client) == acl.unknown(kind_of(kind))
        assert called("setup", str(tmp_path / "like"), "--like", server.url)[0] == 0
    asked = json.loads((tmp_path / "like/setup.json").read_text())
    assert asked["without"] == sorted(acl.unknown(kind_of(kind)))


@pytest.mark.parametrize("file", ["redis.conf", "cache.conf", "cluster.conf"])
def test_every_configuration_starts_and_is_hardened(file: str, configured: Configured):
    """On each kind: an option or a command that one of them does not know would keep it from starting."""

    class This(Configured):
        pass

    This.file = file
    with This(configured.kind, configured.layout.root) as server, server.client() as admin:
        found = admin.config_get("*")
        if server.kind.tls:
            assert (found["port"], found["tls-auth-clients"]) == ("0", "yes")
        assert (found["enable-debug-command"], found["enable-module-command"]) == ("no", "no")
        assert found["protected-mode"] == "yes"
        assert admin.acl_whoami() == "admin"
        memory = ("2147483648", "allkeys-lru") if file == "cache.conf" else ("1073741824", "noeviction")
        assert (found["maxmemory"], found["maxmemory-policy"]) == memory
        assert found["appendonly"] == ("no" if file == "cache.conf" else "yes")
        assert (found["cluster-enabled"] == "yes") is (file == "cluster.conf")


@pytest.mark.leaves_keys
def test_what_was_written_is_there_after_a_restart(configured: Configured):
    """A server reads its append log as the default user: one without rights would forget what scripts have written."""
    configured.command("CONFIG", "SET", "appendfsync", "always")
    with Grid(configured.url_of("app")) as grid:
        lease = grid.lock("kept", ttl=300).acquire()
        grid.limiter("kept", "5/hour").hit("me")
        configured.kill()
        configured.start()
        info = grid.lock("kept").info()
        assert info.holder is not None
        assert info.holder.fence == lease.fence
        assert grid.limiter("kept", "5/hour").peek("me").remaining == 4
        lease.release()


def test_nobody_comes_in_without_a_password_or_a_certificate(configured: Configured):
    layout, at = configured.layout, (configured.host, configured.port)
    once = {"socket_timeout": 20, "retry": Retry(NoBackoff(), 0)}
    if not configured.kind.tls:
        with redis.Redis(*at, **once) as nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()
        return
    trust = {"ssl": True, "ssl_ca_certs": str(layout.tls("ca.crt")), **once}
    shown = {"ssl_certfile": str(layout.tls("client.crt")), "ssl_keyfile": str(layout.tls("client.key"))}
    with redis.Redis(*at, **trust, **shown) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()
    login = {"username": "app", "password": configured.login("app")}
    with redis.Redis(*at, **login, **trust) as uncertified, pytest.raises(redis.ConnectionError):
        uncertified.ping()
    with redis.Redis(*at, **login, **once) as plain, pytest.raises(redis.ConnectionError):
        plain.ping()


def test_a_replica_copies_and_sentinels_watch_with_their_own_users(configured: Configured):
    """Replication, and the sentinels among each other, need no other right than that of their role."""
    with ConfiguredSet(configured.kind, configured.layout.root, replicas=1, sentinels=2) as servers:
        assert [sentinel.command("ACL", "WHOAMI") for sentinel in servers.sentinels] == [b"admin", b"admin"]
        denied = b"".join(repr(member.command("ACL", "LOG")).encode() for member in servers.members)
        assert b"sentinel" not in denied
        with Grid(servers.url_of("app")) as grid:
            assert grid.lock("job").try_acquire() is not None
