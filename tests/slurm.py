"""Stand-ins for what SLURM brings: ``sbatch`` that runs a job at once, each task of an array in turn, and ``srun``."""

import os
import stat
import sys

SBATCH = """#!/bin/bash
# Does what is asked for on the spot, after all jobs that it depends on: these are done.
set -euo pipefail
array= dependency= args=()
for word in "$@"; do
    case $word in
        --array=1-*) array=${word#--array=1-} ;;
        --dependency=afterok:*) dependency=${word#--dependency=afterok:} ;;
        --*) [[ ${#args[@]} -gt 0 ]] && args+=("$word") ;;
        *) args+=("$word") ;;
    esac
done
number=$(( $(cat "$JOBS/last" 2>/dev/null || echo 100) + 1 ))
[[ -z $dependency || -f $JOBS/$dependency ]] || exit 1
echo "$number" > "$JOBS/last"
export SLURM_CPUS_PER_TASK=1
if [[ -n $array ]]; then
    for (( task = array; task >= 1; task-- )); do
        SLURM_ARRAY_TASK_ID=$task bash "${args[@]}" >> "$JOBS/log" 2>&1
    done
else
    bash "${args[@]}" >> "$JOBS/log" 2>&1
fi
touch "$JOBS/$number"
echo "$number;cluster"
"""
SRUN = '#!/bin/bash\nexec "$@"\n'


def stand_ins(folder, shear_lit=""):
    """The environment in which they are found; ``shear_lit`` is a script in place of the command."""
    folder.mkdir()
    package = f'#!/bin/bash\nexec {sys.executable} -m shear_lit "$@"\n'
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "shear-lit": shear_lit or package}.items():
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "JOBS": str(folder)}
