"""How the model inside the package is made: `make pocket`, or `python -m recipes.pocket`.

arithmetic.py         problems, their written steps and their answers, all computed and checked
facts.py  talk.py     what it knows about its own architecture; small talk; what it says when it does not know
data.py               the mixture: an endless, seeded stream of chats, and the held-out problems
tokenizer.py          trains the byte-level BPE
chat_template.jinja   the chat format, our own text
evaluate.py           held-out accuracy with and without thinking
__main__.py           one command: data, tokenizer, training, export
"""
