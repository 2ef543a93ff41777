"""Systems of equations whose matrix is a graph Laplacian: nodes are policies, edges pairs of them.

Joint offsets lead to such systems (`charm_rm.core.joint_fit`): only differences count, so that a
common shift is mapped to 0.
"""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular

from charm_rm.core.win_rates import Floats

LEAST_PIVOT = 1e-280  # smaller ones have no inverse in float64
MIN_DAMPING = 1e-4  # of the largest entry on the diagonal


def laplacian(weights: Floats) -> Floats:
    """Laplacian of a weighted graph: its degrees on the diagonal, minus the weights.

    Args:
        weights: Of the edges, symmetric, shape (K, K), 0 on the diagonal.

    Returns:
        Shape (K, K); rows and columns sum to 0.

    Example:
        >>> laplacian(np.array([[0.0, 2.0], [2.0, 0.0]]))
        array([[ 2., -2.],
               [-2.,  2.]])
    """
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)


def grounded_inverse(matrix: Floats, *, ground: int) -> Floats:
    """Inverse of a Laplacian whose row and column ``ground`` are struck out.

    Nodes are eliminated one by one; what a node carried goes to edges between those it was linked
    to, and its pivot is the sum of its edges (Grassmann, Taksar and Heyman 1985). So nothing is
    subtracted, and entries keep their digits where edges differ by more than float64 can add:
    those of a policy 3,500 Elo points below the others weigh 1e-17 of theirs.

    Args:
        matrix: The `laplacian`, shape (K, K); its diagonal is not read.
        ground: Index of the node that is held.

    Returns:
        Shape (K, K); 0 in the row and the column of the ground.

    Raises:
        LinAlgError: If a pivot is not positive, as the struck Laplacian is then not, or too small
            to divide by.

    Example:
        >>> grounded_inverse(np.array([[2.0, -2.0], [-2.0, 2.0]]), ground=1)
        array([[0.5, 0. ],
               [0. , 0. ]])
    """
    order = np.roll(np.arange(len(matrix)), -ground - 1)  # the ground goes last
    left, n = -matrix[np.ix_(order, order)], len(matrix) - 1
    factor, pivots = np.eye(n), np.empty(n)
    for at in range(n):
        edges = left[at, at + 1 :]
        pivots[at] = edges.sum()
        if not pivots[at] > LEAST_PIVOT:
            raise LinAlgError("the Laplacian without its ground is not positive definite")
        shares = edges / pivots[at]
        factor[at, at + 1 :] = -shares[:-1]
        left[at + 1 :, at + 1 :] += edges[:, None] * shares
    root = solve_triangular(factor, np.eye(n), unit_diagonal=True)
    inverse = np.zeros_like(left)
    inverse[np.ix_(order[:-1], order[:-1])] = (root / pivots) @ root.T
    return inverse


def solve_laplacian(matrix: Floats, target: Floats, *, damping: float = 0.0) -> Floats:
    """Solution of (matrix + damping) x = target, with more damping where it is not positive.

    A Laplacian maps a common shift to 0. Damped, the same number added to all its entries makes it
    definite and leaves the solution as it is, because the target has no part along that shift.

    Args:
        matrix: The `laplacian`, shape (K, K).
        target: Shape (K,); its entries sum to 0.
        damping: To add to the diagonal, as a share of its largest entry.

    Returns:
        x, shape (K,); without damping its entries sum to 0.

    Example:
        >>> solve_laplacian(laplacian(np.array([[0.0, 2.0], [2.0, 0.0]])), np.array([2.0, -2.0]))
        array([ 0.5, -0.5])
    """
    if damping == 0.0:
        try:
            ground = int(np.argmax(np.diag(matrix)))
            step = grounded_inverse(matrix, ground=ground) @ target
            return np.asarray(step - step.mean())
        except LinAlgError:
            damping = MIN_DAMPING
    scale = float(np.abs(np.diag(matrix)).max()) or 1.0
    while True:
        try:
            shifted = matrix + scale / len(target) + damping * scale * np.eye(len(target))
            return np.asarray(cho_solve(cho_factor(shifted), target))
        except LinAlgError:
            damping = max(MIN_DAMPING, 10.0 * damping)
