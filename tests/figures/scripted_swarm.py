"""A swarm of one script: answers a command as the control protocol has it, without a device; run by the tests."""

import json
import sys

devices = 0
for line in sys.stdin:
    command = json.loads(line)
    answer: dict[str, object] = {}
    if command["do"] == "quit":
        break
    if command["do"] == "connect":
        # one in every hundred and first fails, so that a test can ask for one that does
        failed = command["count"] // 101
        devices += command["count"] - failed
        answer = {"connected": command["count"] - failed, "failed": failed, "seconds": 0.5, "per_s": 2 * devices}
    elif command["do"] == "broadcast":
        answer = {"expected": devices, "delivered": devices if command["bytes"] == 100 else 0, "per_s": 1.0}
    elif command["do"] == "stats":
        answer = {"online": devices, "options": sys.argv[1:]}
    elif command["do"] == "die":
        print("no memory for the devices", file=sys.stderr, flush=True)
        sys.exit(3)
    else:
        answer = {"error": f"{command['do']} is no command"}
    print(json.dumps(answer), flush=True)
