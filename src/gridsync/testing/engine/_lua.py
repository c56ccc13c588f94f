"""Lua 5.1, as Redis embeds it: the sandbox, ``redis.call`` and the two conversions between replies and Lua values."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import Reply, Status, show

if TYPE_CHECKING:
    from collections.abc import Callable

_SANDBOX = b"""
local invoke, sha1 = ...
local redis = {
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3, REPL_ALL = 3,
  log = function() end, replicate_commands = function() return true end, setresp = function() end,
  sha1hex = sha1, REDIS_VERSION = '8.2.3', REDIS_VERSION_NUM = 0x00080203,
}
function redis.call(...)
  local reply = invoke(...)
  if type(reply) == 'table' and reply.err then error(reply, 0) end
  return reply
end
function redis.pcall(...) return invoke(...) end
function redis.status_reply(text)
  if type(text) ~= 'string' then return {err = 'ERR wrong number or type of arguments'} end
  return {ok = text}
end
function redis.error_reply(text)
  if type(text) ~= 'string' then return {err = 'ERR wrong number or type of arguments'} end
  if text:sub(1, 1) == '-' then text = text:sub(2) end
  if not text:find(' ', 1, true) then text = 'ERR ' .. text end
  return {err = text}
end
local function plain(ok, first, ...)
  if not ok and type(first) == 'table' and first.err then first = first.err end
  return ok, first, ...
end
local function frozen(content)
  return setmetatable({}, {__index = content, __metatable = false,
    __newindex = function() error('Attempt to modify a readonly table', 2) end})
end
local globals = {
  redis = frozen(redis), server = frozen(redis), string = frozen(string), table = frozen(table), math = frozen(math),
  assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs,
  pcall = function(...) return plain(pcall(...)) end,
  rawequal = rawequal, rawget = rawget, rawset = rawset, select = select, setmetatable = setmetatable,
  tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, xpcall = xpcall, _VERSION = _VERSION,
}
local environment = setmetatable({}, {
  __index = function(_, name)
    local value = globals[name]
    if value == nil then
      error('Script attempted to access nonexistent global variable \\'' .. tostring(name) .. '\\'', 2)
    end
    return value
  end,
  __newindex = function() error('Attempt to modify a readonly table', 2) end,
})
globals._G = environment
local function compile(source)
  local chunk, problem = loadstring(source, '@user_script')
  if chunk then setfenv(chunk, environment) end
  return chunk, problem
end
local function enter(keys, argv) globals.KEYS = keys globals.ARGV = argv end
local function handler(problem)
  if type(problem) == 'table' then return problem end
  return {err = tostring(problem), raised = true}
end
local function run(chunk)
  local ok, value = xpcall(chunk, handler)
  return ok, value
end
return compile, enter, run
"""

_BAD_ARGUMENT = ReplyError("ERR Lua redis lib command arguments must be strings or integers")


class Interpreter:
    """One Lua state; scripts leave no trace in it."""

    def __init__(self, invoke: Callable[[list[bytes]], Reply], sha1: Callable[[bytes], str]) -> None:
        """Set the sandbox up.

        Args:
            invoke: Runs one command for a script and returns its reply, errors as `ReplyError` values.
            sha1: What ``redis.sha1hex`` does.
        """
        try:
            lua51 = importlib.import_module("lupa.lua51")
        except ImportError:
            message = "the simulation runs Lua through lupa: pip install 'gridsync-redis[testing]'"
            raise ImportError(message) from None
        self._runtime = lua51.LuaRuntime(
            encoding=None, unpack_returned_tuples=True, register_eval=False, register_builtins=False
        )
        self._lua_type: Callable[[Any], str | None] = lua51.lua_type
        self._invoke = invoke
        self._compile, self._enter, self._run = self._runtime.execute(
            _SANDBOX, self._call, lambda text: sha1(text).encode()
        )

    def compile(self, source: bytes) -> Any:  # noqa: ANN401 - a Lua function
        """Return the script as a Lua function; `ReplyError` if it can't be read."""
        if source[:2] == b"#!":
            shebang, _newline, rest = source.partition(b"\n")
            if shebang.split()[0] != b"#!lua":
                raise ReplyError(f"ERR Unexpected engine in script shebang: {shebang.split()[0].decode()}")
            source = b"\n" + rest  # keeps the line numbers of error messages
        chunk, problem = self._compile(source)
        if chunk is None:
            raise ReplyError(f"ERR Error compiling script (new function): {problem.decode()}")
        return chunk

    def run(self, chunk: Any, sha: str, keys: list[bytes], args: list[bytes]) -> Reply:  # noqa: ANN401
        """Run a compiled script and return its reply."""
        table = self._runtime.table_from
        self._enter(table(keys), table(args))
        ok, value = self._run(chunk)
        if ok:
            return self._reply(value)
        text = value[b"err"].decode(errors="replace")
        if value[b"raised"]:
            text = f"ERR {text}"
        raise ReplyError(f"{text} script: {sha}, on @user_script")

    def _call(self, *words: Any) -> Any:  # noqa: ANN401 - Lua values in and out
        try:
            return self._value(self._invoke([_word(word) for word in words]))
        except ReplyError as error:
            return self._value(error)

    def _value(self, reply: Reply) -> Any:  # noqa: ANN401
        """Turn a reply into what ``redis.call`` returns."""
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._runtime.table_from({b"ok": bytes(reply)})
        if isinstance(reply, ReplyError):
            return self._runtime.table_from({b"err": str(reply).encode()})
        if isinstance(reply, list):
            return self._runtime.table_from([self._value(item) for item in reply])
        return reply

    def _reply(self, value: Any) -> Reply:  # noqa: ANN401
        """Turn what a script returned into a reply."""
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, float):
            return int(value)
        if isinstance(value, (bytes, int)):
            return value
        if self._lua_type(value) != "table":
            return None
        if (error := value[b"err"]) is not None:
            return ReplyError(error.decode(errors="replace"))
        if (status := value[b"ok"]) is not None:
            return Status(status)
        out = []
        place = 1
        while (item := value[place]) is not None:
            out.append(self._reply(item))
            place += 1
        return out


def _word(word: Any) -> bytes:  # noqa: ANN401
    if isinstance(word, bytes):
        return word
    if isinstance(word, int) and not isinstance(word, bool):
        return b"%d" % word
    if isinstance(word, float):
        return show(word)
    raise _BAD_ARGUMENT
