"""Floor 0: the method as pure functions of arrays. No files, no printing, no names of models.

Equation numbers are those of Zhu et al., "CHARM: Calibrating Reward Models With Chatbot Arena
Scores", arXiv:2504.10045.
"""
