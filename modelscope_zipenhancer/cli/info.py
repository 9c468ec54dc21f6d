"""`zipenhancer info`: what a model is."""

import json


def run_info(args) -> int:
    from ..network.summary import describe

    card = describe(args.model)
    if args.json:
        print(json.dumps(card, indent=1))
        return 0
    stacks = ", ".join(f"{s['time_factor']}x{s['freq_factor']}" for s in card["stacks"])
    print(f"model       {card['model']}, in {card['folder']}")
    print(
        f"parameters  {card['parameters']:,} in {len(card['stacks'])} stacks (downsampling {stacks}), ",
        end="",
    )
    print(f"{card['channels']} channels")
    print(f"cost        {card['flops_per_second'] / 1e9:.2f} GFLOPs for a second of audio at 16 kHz")
    print(f"weights     {card['checkpoint']}, {card['bytes'] / 1e6:.2f} MB")
    print(f"sha256      {card['sha256']}")
    return 0
