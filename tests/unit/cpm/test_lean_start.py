"""The process that holds the keys loads one OpenSSL, and its digests are right without the other."""

import os
import subprocess
import sys

SCRIPT = """
import sys
from cpm.lean_start import leave_out_second_openssl
leave_out_second_openssl()
import cpm.serve, cpm.settings, cpm.custody.software, cpm.workload
import hashlib, hmac
assert hashlib.sha256(b"abc").hexdigest() == (
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
assert hmac.compare_digest(b"a", b"a") and not hmac.compare_digest(b"a", b"b")
print(sys.modules["_hashlib"], "_ssl" in sys.modules, "libcrypto" in open("/proc/self/maps").read())
"""


def test_second_openssl_is_left_out_and_digests_are_the_same():
    # Measuring coverage loads hashlib before all else.
    told = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=told
    )

    assert (done.stdout, done.stderr) == ("None False False\n", "")
