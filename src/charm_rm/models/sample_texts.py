"""A few conversations of our own, short and long, good and bad, to try a reward model on."""

from charm_rm.data.prompts import Message

SKY = (
    "The sky looks blue because air scatters short waves of sunlight far more than long ones. Blue "
    "light therefore reaches the eye from every direction, while red light mostly goes straight "
    "through. At sunset the path through the air is longer: most of the blue is scattered away "
    "before it arrives, and what is left looks red."
)
STEPS = (
    "Here is one way to go about it.\n\n"
    "1. **Write down** what you earn and what you spend in a month, to the nearest ten.\n"
    "2. **Sort** the spending into what you need, what you like, and what you forgot about.\n"
    "3. **Choose** a sum that you can put aside on the day the money comes in.\n"
    "4. **Look again** after three months; a plan that nobody keeps is not a plan."
)
CODE = (
    "```python\ndef mean(values):\n    if not values:\n"
    '        raise ValueError("no values")\n    return sum(values) / len(values)\n```\n'
    "An empty list has no mean, so that case is an error and not a zero."
)
RESPONSES = {
    "Why is the sky blue?": ("Because.", "i dont know lol", SKY),
    "How do I start to save money?": ("Spend less.", STEPS, f"{STEPS}\n\n{STEPS}\n\n{STEPS}"),
    "Write a Python function for the mean of a list.": (
        CODE,
        "mean = sum / len",
        "",
        f"{SKY} " * 6,
    ),
    "What is 12 times 12? Answer with the number.": (
        "144",
        "It is 124.",
        "The answer is 144. " * 9,
    ),
}


def sample_conversations() -> list[list[Message]]:
    """Conversations of about ten to a few hundred tokens; one response is empty.

    Returns:
        Messages, user and assistant by turns.

    Example:
        >>> len(sample_conversations())
        13
    """
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, responses in RESPONSES.items()
        for response in responses
    ]
