import sys

if sys.platform == "win32":
    raise ImportError("the commands of r2ac need Linux or macOS: on Windows take WSL 2. r2ac.agents and r2ac.envs work")
