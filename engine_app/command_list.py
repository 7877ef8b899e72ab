"""What ``cyxwiz --help`` lists: every command in a line, by what one wants to do. Pure."""

from __future__ import annotations

SECTIONS: dict[str, dict[str, str]] = {
    "Draw a graph": {
        "app": "Open the window, with a graph in it.",
        "nodes": "List the node types that a graph can be made of.",
        "node": "Explain a node type: ports, parameters, shapes, an example.",
        "check": "Say what is wrong with a graph, its size, memory and time.",
        "code": "Write a graph as PyTorch source that needs no CyxWiz.",
        "import-code": "Turn a torch module in a Python file into a graph.",
    },
    "Train it here": {
        "data": "Look at data, and convert it.",
        "find-rate": "Suggest the learning rate to begin with.",
        "train": "Train a graph on this machine.",
        "sweep": "Train it again and again with other parameters.",
        "trainings": "List the trainings here that run, wait or were cut short.",
    },
    "Train it at a peer": {
        "peers": "List peers: what they have and take.",
        "estimate": "Say what a training would cost, at which peer.",
        "submit": "Have a graph trained by a peer.",
        "jobs": "List your jobs, newest first.",
        "follow": "Tell a job's story from its beginning.",
        "fetch": "Write a job's trained model, checked, to a file.",
    },
    "While it trains, here or there": {
        "pause": "Stop it for now.",
        "resume": "Let it go on.",
        "set-rate": "Change its learning rate.",
        "cancel": "Stop it for good; what is not earned comes back.",
    },
    "Take the model elsewhere": {
        "export": "Write it in another format, certified to answer alike.",
        "import": "Make a model of ONNX, safetensors, a folder or GGUF.",
        "inspect": "Say what is in a file of any format; runs nothing.",
    },
    "Let it answer": {
        "serve": "Answer HTTP here.",
        "deploy": "Have it served by peers, paid minute by minute.",
        "deployments": "List deployments; watch, extend and stop them.",
        "infer": "Ask a deployed model.",
        "chat": "Talk with a deployed language model.",
        "gateway": "One port for models here and at peers.",
        "keys": "Keys for the HTTP servers of this machine.",
    },
    "Who you are": {
        "wallet": "The key that pays for jobs.",
        "id": "Print this Engine's id, by which a peer lets it in.",
    },
}
