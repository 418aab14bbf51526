# Sourced by samples/quickstart and tests/run: what a build needs from the system, and how to get it.

# Commands and development packages of a build on Debian and Ubuntu, COMMAND:PACKAGE or just PACKAGE.
build_packages="g++:g++ cmake:cmake ninja:ninja-build pkg-config:pkg-config
  libsentencepiece-dev libpcre2-dev libutf8proc-dev nlohmann-json3-dev libcli11-dev"

# Prints those of the given packages that are not there.
missing_packages() {
  local entry package
  for entry in "$@"; do
    package=${entry#*:}
    case $entry in *:*)
      command -v "${entry%%:*}" >/dev/null 2>&1 && continue ;;
    esac
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

# Installs what is missing of the given packages, and says so first. Does nothing, and needs no network, when all is there.
need_packages() {
  local missing sudo=
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "This is no Debian or Ubuntu: going on in the hope that these are installed: $*" >&2
    return 0
  fi
  missing=$(missing_packages "$@" | tr '\n' ' ')
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    sudo=sudo
    if ! command -v sudo >/dev/null 2>&1; then
      echo "Please install these as root, then run this again: apt-get install $missing" >&2
      return 1
    fi
  fi
  echo "Installing with ${sudo:+$sudo }apt-get: $missing"
  quietly build/apt-update.log $sudo apt-get update
  quietly build/apt-install.log $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
}

# Runs a step that says much and matters little: its output goes to a file, and to the screen when it fails.
quietly() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 && return 0
  echo "failed: $*" >&2
  tail -n 40 "$log" >&2
  return 1
}
