# Runs in a container without a network, with the wheels that the host fetched in /tmp/wheels, and makes /opt/venv.
# A virtual environment, because mpi4py finds the wheel's MPI library only under sys.prefix/lib. The wheels are gone
# again before the container becomes an image, so no layer ever holds them.
set -eu
python3 -m venv /opt/venv
/opt/venv/bin/pip install --quiet --no-index --find-links /tmp/wheels --no-cache-dir --disable-pip-version-check \
    --root-user-action=ignore --requirement /tmp/wheels/requirements.txt
/opt/venv/bin/pip check
# The headers and static parts are for compiling against torch, which no rank does.
rm -rf /opt/venv/lib/python3*/site-packages/torch/include /opt/venv/lib/python3*/site-packages/torch/share
# Containers run as whoever started the testbed.
chmod -R a+rX /opt/venv
rm -rf /tmp/wheels
