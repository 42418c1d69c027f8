# Runs in a container of the registry's Python image (which has Python under /usr/local) and adds what the agent and a
# curious reader need from Debian: the packages that are its arguments. The result becomes testbed-base.
set -eu
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
