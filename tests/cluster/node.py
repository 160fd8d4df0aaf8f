"""A real node: containerd, runc, a bridge for the pods' network, kubelet and kube-proxy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.cluster import images
from tests.cluster.packages import UnpackedPackages, command, install
from tests.cluster.programs import ClusterError, Programs, wait_for

POD_NETWORK = "10.88.7.0/24"
BRIDGE = "cni-test0"
PACKAGES = ("containerd", "runc", "containernetworking-plugins", "libc6", "libseccomp2")
CHANGED_BY_KUBELET = (
    "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
)  # fmt: skip

NETWORK = {
    "cniVersion": "1.0.0",
    "name": "test",
    "plugins": [
        {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_NETWORK}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

CONTAINERD = """\
version = 3
root = "{folder}/data/containerd"
state = "{folder}/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{packages}/usr/lib/cni"]
    conf_dir = "{folder}/run/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
"""

KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {folder}/pki/ca.crt}}
authorization: {{mode: AlwaysAllow}}
maxPods: 240
serializeImagePulls: false
kubeAPIQPS: 200
kubeAPIBurst: 400
evictionHard: {{memory.available: 100Mi}}
"""


class NodePrograms:
    """The node's part of the cluster in `folder`; `assets` holds kubelet and kube-proxy."""

    def __init__(self, folder: Path, assets: Path, programs: Programs, packages: UnpackedPackages) -> None:
        self._folder = folder
        self._assets = assets
        self._programs = programs
        self._packages = packages
        self._run = folder / "run"
        self._socket = self._run / "containerd.sock"

    def start(self, address: str, env: dict[str, str]) -> None:
        """What does not run yet; `address` is the host's."""
        self._packages.add(*PACKAGES)
        install({"iptables": "iptables", "conntrack": "conntrack"}, self._folder / "log/apt.log")
        self._patch_runc()
        archives = images.build(self._folder / "data", self._run, self._folder / "log")
        self._remember_sysctls()
        values = {
            "folder": self._folder, "socket": self._socket, "pause": images.PAUSE, "packages": self._packages.root,
            "runc": self._run / "runc",
        }  # fmt: skip
        (self._run / "cni").mkdir(exist_ok=True)
        (self._run / "cni/10-bridge.conflist").write_text(json.dumps(NETWORK))
        (self._run / "containerd.toml").write_text(CONTAINERD.format(**values))
        (self._run / "kubelet.yaml").write_text(KUBELET.format(**values))

        containerd = [str(self._packages.program("containerd")), "-c", str(self._run / "containerd.toml")]
        self._programs.start("containerd", containerd, env)
        wait_for(self._socket.exists, 20, "containerd to listen")
        images.load(self._packages, self._socket, archives)
        self.start_kubelet(address, env)
        proxy = [
            str(self._assets / "kube-proxy"), f"--kubeconfig={self._folder / 'pki/proxy.kubeconfig'}",
            f"--cluster-cidr={POD_NETWORK}", "--proxy-mode=iptables", "--conntrack-max-per-core=0",
        ]  # fmt: skip
        self._programs.start("proxy", proxy, env)

    def start_kubelet(self, address: str, env: dict[str, str]) -> None:
        """Unless it runs. It ends at once where containerd listens already, but is not ready to serve it."""
        kubelet = [
            str(self._assets / "kubelet"), f"--config={self._run / 'kubelet.yaml'}", f"--node-ip={address}",
            f"--kubeconfig={self._folder / 'pki/kubelet.kubeconfig'}",
            f"--root-dir={self._folder / 'data/kubelet'}",
        ]  # fmt: skip
        self._programs.start("kubelet", kubelet, env)

    @contextmanager
    def image(self, name: str) -> Iterator[Callable[[], object]]:
        """A name for the base image, from when what is given is called until the end of the block."""
        ctr = (self._packages.program("ctr"), "-a", self._socket, "-n", images.NAMESPACE, "images")
        try:
            yield partial(command, *ctr, "tag", images.BASE, name)
        finally:
            command(*ctr, "rm", name)

    def add_image(self, name: str, content: Mapping[str, Path]) -> None:
        """The base image with folders of the host at these paths in it; unless there is one of that name."""
        images.load_larger(self._packages, self._socket, self._folder / "data", name, content)

    def stop_containers(self) -> None:
        """While containerd still runs: kubelet leaves its containers running when it goes."""
        if self._programs.process("containerd") is None:
            return
        ctr = (self._packages.program("ctr"), "-a", self._socket, "-n", images.NAMESPACE)

        def tasks() -> list[str]:
            return command(*ctr, "tasks", "ls", "-q").split()

        def ended() -> bool:
            for task in tasks():
                try:
                    command(*ctr, "tasks", "delete", "--force", task)
                except ClusterError:
                    continue  # still ending
            return not tasks()

        wait_for(ended, 30, "the containers to end")
        for container in command(*ctr, "containers", "ls", "-q").split():
            command(*ctr, "containers", "delete", container)

    def clean_up(self) -> None:
        """What kubelet, kube-proxy and the network's plugins have changed in the host; nothing of them runs."""
        self._socket.unlink(missing_ok=True)
        self._unmount()
        proxy = self._assets / "kube-proxy"
        for argv in ([proxy, "--cleanup"], ["ip", "link", "delete", BRIDGE]):
            try:
                command(*argv)
            except ClusterError:
                continue  # there was nothing
        remembered = self._run / "sysctls.json"
        if remembered.exists():
            for name, value in json.loads(remembered.read_text()).items():
                (Path("/proc/sys") / name).write_text(value)
            remembered.unlink()

    def _unmount(self) -> None:
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{self._folder}/")), reverse=True):
            command("umount", "--lazy", mount)

    def _remember_sysctls(self) -> None:
        remembered = self._run / "sysctls.json"
        if self._programs.process("kubelet") is None and not remembered.exists():
            values = {name: (Path("/proc/sys") / name).read_text().strip() for name in CHANGED_BY_KUBELET}
            remembered.write_text(json.dumps(values))

    def _patch_runc(self) -> None:
        """It is linked against the C library of the release that it comes from."""
        target = self._run / "runc"
        if target.exists():
            return
        install({"patchelf": "patchelf"}, self._folder / "log/apt.log")
        (loader,) = self._packages.root.glob("usr/lib/*/ld-linux-*.so.*")
        copy = target.with_suffix(".new")
        shutil.copy(self._packages.program("runc"), copy)
        command("patchelf", "--set-interpreter", loader, "--set-rpath", loader.parent, copy)
        copy.rename(target)
