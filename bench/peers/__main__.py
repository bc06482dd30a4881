"""`python -m bench.peers [NAME…]`: installs the peers, each in a folder of its own; says what each takes."""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench.peers import PEERS, kserve, llama_cpp, mlserver, openvino, triton, vllm

INSTALL = {
    "llama.cpp": llama_cpp.install,
    "openvino": openvino.install,
    "vllm": vllm.install,
    "kserve": kserve.install,
    "mlserver": mlserver.install,
    "triton": triton.install,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(INSTALL)}; all when left out")
    names = parser.parse_args().names or list(INSTALL)
    unknown = [name for name in names if name not in INSTALL]
    if unknown:
        parser.error(f"there is no peer '{unknown[0]}'; there are {', '.join(INSTALL)}")
    failed = []
    for name in names:
        try:
            INSTALL[name]()
        except subprocess.CalledProcessError as error:
            # One that cannot be had here must not keep the others away.
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
    print(f"installed under {PEERS}: {', '.join(name for name in names if name not in failed) or 'nothing'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
