#!/usr/bin/env bash
# What a bare GPU image (Python 3.12 with jax, flax, optax, chex, orbax, matplotlib, rich, pytest) lacks to run this
# project, as wheels in .wheels/, for a machine without network:
#
#   bash benchmarks/bundle.sh                     # here; versions are those of constraints.txt
#   . .wheels/install.sh && python3 benchmarks/accelerator.py …   # there, in the root of a copy of this folder
#
# MuJoCo comes without its viewer, Brax without what only its web viewer imports. About 20 MiB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages="brax jaxopt ml-collections trimesh mujoco mujoco-core mujoco-mjx glfw tyro docstring-parser typeguard
    tensorboardx submitit beartype jaxtyping"
wheels=()
for name in $packages; do
    wheels+=("$(grep -m 1 -E "^$name==" constraints.txt)") || { echo "constraints.txt has no $name" >&2; exit 1; }
done
mkdir -p .wheels
rm -f .wheels/*.whl
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64)
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest .wheels "${wheels[@]}" 2> >(grep -v "is ignored: it is neither" >&2)
cat > .wheels/install.sh <<'INSTALL'
# To be sourced. Unpacks the wheels into a folder of their own, where python3 and its children look too; no package of the
# machine is replaced. One call for all of them: with --target a second one would replace folders that two share.
_wheels=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
_site=${SITE:-${TMPDIR:-/tmp}/site}
_python=${PYTHON:-python3}
$_python -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --upgrade --target "$_site" "$_wheels"/*.whl || return 1
echo "$_site" > "$($_python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/metarl_wheels.pth" || return 1
export PYTHONPATH="$(dirname "$_wheels")${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
INSTALL
du -sh .wheels | cut -f 1
