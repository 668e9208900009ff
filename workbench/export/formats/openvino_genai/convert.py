"""Make an OpenVINO model of a GGUF, in its folder.

python -E -P convert.py MODEL.gguf
"""

import sys

import openvino_genai

if __name__ == "__main__":
    # To read a GGUF is to make a model of it; the option leaves that, and its tokenizer, beside the file.
    openvino_genai.LLMPipeline(sys.argv[1], "CPU", enable_save_ov_model=True)
