"""Codesets that are too large for ConfigMaps: an init container fetches the pinned commit with git.

As the daemon does it: no `.git`, submodules stay empty folders, large files in LFS stay pointers. Credentials come
from the attempt's Secret through the environment, and never stand on a command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from fusemld.hooks.executors import MountedCodeset

CREDENTIALS: Final = ("username", "password", "ssh_key", "known_hosts")

FETCH: Final = r"""
set -eu
umask 0
own=$1
shift
export HOME="$own" GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_LFS_SKIP_SMUDGE=1 LC_ALL=C.UTF-8
cat >"$own/askpass" <<'EOT'
#!/bin/sh
# Answers git's questions about one host only: a redirect elsewhere gets nothing.
case "$1" in
    *"//$GIT_HOST'"* | *"@$GIT_HOST'"*) ;;
    *) exit 1 ;;
esac
case "$1" in
    Username*) printf '%s\n' "$GIT_USERNAME" ;;
    *) printf '%s\n' "$GIT_PASSWORD" ;;
esac
EOT
chmod 700 "$own/askpass"

private() { (umask 077; printf '%s\n' "$2" >"$own/$1"); }

fetch() {
    git -c core.hooksPath=/dev/null -c credential.helper= -c protocol.ext.allow=never -c gc.auto=0 \
        -c http.lowSpeedLimit=100 -c http.lowSpeedTime=60 fetch --quiet --no-tags --no-write-fetch-head "$@"
}

# Whoever reads the end of the log is told whose words these are.
exec 3>&2
trap '[ "$?" = 0 ] || { printf "%s/%s: " "$project" "$name"; cat "$own/said"; } >&3' EXIT

while [ "$#" -gt 0 ]; do
    number=$1 url=$2 host=$3 commit=$4 target=$5 project=$6 name=$7
    shift 7
    exec 2>"$own/said"
    eval "GIT_USERNAME=\${GIT_${number}_USERNAME-} GIT_PASSWORD=\${GIT_${number}_PASSWORD-}"
    eval "key=\${GIT_${number}_SSH_KEY-} hosts=\${GIT_${number}_KNOWN_HOSTS-}"
    export GIT_HOST="$host" GIT_USERNAME GIT_PASSWORD GIT_ASKPASS=/bin/false SSH_ASKPASS=/bin/false
    if [ -n "$GIT_PASSWORD" ]; then GIT_ASKPASS="$own/askpass"; fi
    ssh="ssh -o BatchMode=yes -o ConnectTimeout=30"
    if [ -n "$hosts" ]; then
        private known_hosts "$hosts"
        ssh="$ssh -o StrictHostKeyChecking=yes"
    else
        ssh="$ssh -o StrictHostKeyChecking=accept-new"
    fi
    ssh="$ssh -o UserKnownHostsFile=$own/known_hosts"
    if [ -n "$key" ]; then
        private key "$key"
        ssh="$ssh -o IdentitiesOnly=yes -i $own/key"
    fi
    export GIT_SSH_COMMAND="$ssh" GIT_DIR="$target/.git" GIT_WORK_TREE="$target"
    git init --quiet
    if ! fetch --depth 1 -- "$url" "$commit"; then
        grep -qiE 'not our ref|unadvertised object|shallow|dumb http' "$own/said"
        exec 2>"$own/said"
        fetch -- "$url" '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*'
    fi
    (cd "$target" && git -c core.hooksPath=/dev/null -c core.autocrlf=false -c core.symlinks=true \
        -c advice.detachedHead=false checkout --quiet --force "$commit" --)
    rm -rf "$GIT_DIR" "$own/key" "$own/known_hosts"
    mkdir -p "$target/.fuseml"
    printf %s "$project" >"$target/.fuseml/_org"
    printf %s "$name" >"$target/.fuseml/_project"
done
"""
"""POSIX sh for busybox and dash, with git and grep. Arguments: a private folder, then seven for each codeset: its
number, its address, the host that gets the credentials, the commit, the target, project and name."""


def is_fetchable(codeset: MountedCodeset) -> bool:
    """Whether a pod can get it with git: its repository is not on the daemon's own host."""
    return bool(codeset.url) and not codeset.url.startswith(("/", "file:"))


def arguments(codeset: MountedCodeset, number: int, target: str) -> list[str]:
    """Of the script, after the private folder."""
    url = codeset.url
    host = ""
    if "://" in url:
        parts = urlsplit(url)
        host = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
    return [str(number), url, host, codeset.version, target, codeset.project, codeset.name]


def variables(codeset: MountedCodeset, number: int) -> Mapping[str, str]:
    """The credentials under the names by which the script knows them; secret."""
    found = {name: codeset.credentials.get(name, "") for name in CREDENTIALS}
    return {f"GIT_{number}_{name.upper()}": value for name, value in found.items() if value}
