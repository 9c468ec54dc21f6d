"""`zipenhancer activate` and `deactivate`: this package in every program of this Python."""


def run_activate(args) -> int:
    from ..plugin.pth import install_pth, remove_pth

    if args.command == "activate":
        print(f"active in every program of this Python, by {install_pth()}")
    elif path := remove_pth():
        print(f"no longer active: {path} is removed")
    else:
        print("it was not active")
    return 0
