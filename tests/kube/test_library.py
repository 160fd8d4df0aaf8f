from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_library_comes_without_its_models_and_leaves_nothing_half_loaded() -> None:
    code = (
        "import sys; from fusemld.kube import library; config = library.load(); "
        "print([name for name in sys.modules if name.startswith('kubernetes_asyncio')]); "
        "print(config.kube_config.KubeConfigLoader.__name__, library.load() is config)"
    )

    assert run(code) == "[]\nKubeConfigLoader True\n"


def test_the_room_is_imported_without_the_library() -> None:
    code = "import sys, fusemld.kube.clusters; print('kubernetes_asyncio' in sys.modules, 'six' in sys.modules)"

    assert run(code) == "False False\n"


def test_where_the_library_is_absent_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['kubernetes_asyncio'] = None; from fusemld.kube import library\n"
        "try: library.load()\n"
        "except library.StartError as error: print(error)"
    )

    assert "install the extra `kubernetes`" in run(code)
