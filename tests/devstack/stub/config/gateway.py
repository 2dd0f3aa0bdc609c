"""Serves the stub under the command that serves the gateway."""

import argparse

import uvicorn

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--drain-seconds", type=int)
    uvicorn.run("config.asgi:application", port=parser.parse_args().port, loop="uvloop")
