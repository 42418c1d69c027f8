# Runs in a container in which our modules have just been put into /opt/venv, and compiles them: the user that a rank runs
# as cannot write beside them. unchecked-hash, because nothing in an image changes any more.
set -eu
/opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib/python3*/site-packages/testbed
