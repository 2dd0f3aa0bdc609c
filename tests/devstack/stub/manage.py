"""Plays the application's commands for the tests of the supervisor."""

import json
import sys
import time

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["migrate" | "guard_audit", *_]:
            sys.exit(0)
        case ["seed_demo", *_]:
            services = [{"id": "s1", "name": "one", "pricing": {}}]
            seeded = {"admin_user": "admin", "admin_password": "secret", "api_key": "mk_test_1"}
            sys.stdout.write("some talk\n" + json.dumps({**seeded, "services": services}) + "\n")
        case ["drain_usage"]:
            time.sleep(3600)
        case _:
            sys.exit(2)
