"""OpenVINO GenAI, each time in a process of its own."""
