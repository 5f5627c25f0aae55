"""How the model inside the package is made: `make pocket`, or `python -m recipes.pocket`.

arithmetic.py         problems, their written steps and their answers, all computed and checked
facts.py  talk.py     what it knows about its own architecture; small talk; what it says when it does not know
data.py               the mixture: an endless, seeded stream of chats, and the held-out problems
finish.py             the second, short stage: many more wordings, harder comparisons, more foreign questions
tokenizer.py          trains the byte-level BPE
chat_template.jinja   the chat format, our own text
shape.py              the model's shape and the settings of both stages
evaluate.py  card.py  held-out accuracy with and without thinking, and the model card that shows it
__main__.py           one command: data, tokenizer, training, export
"""
