"""A mixture of several networks and counted n-grams, as one model.

    P(token | context) = (1 - w) * mean of P_network + w * P_ngrams

Networks generalize and a table of counts remembers. Each of them makes different errors, so their
mean predicts better than any of them (Dietterich 2000, "Ensemble methods in machine learning";
Mikolov et al. 2011, "Empirical evaluation and combination of advanced language modeling
techniques").

- `counting.py`: n-grams with Kneser-Ney smoothing, in NumPy
- `table.py`: their probabilities as arrays, looked up on the device
- `model.py`: the family `mixture`
- `gradients.py`: each network learns from its own part of a batch
"""
