"""Exact top-k by inner product: cheap products name the candidates, bounds prove that no other row is better.

The value of a query q and a bank row b is their product, summed in float64 and rounded to float32. Rows of
equal value tie, and the lower row comes first. Values are computed only for candidates, which are found so:

1. Query and row are replaced by codes q' and b': int8 times a scale, half precision, or what they are. With
   e = q - q' and f = b - b', by Cauchy-Schwarz |<q, b> - <q', b'>| = |<e, b> + <q', f>| <= |e||b| + |q'||f|.
   These four lengths are measured, not estimated, for every query and every row.
2. <q', b'> is computed exactly in integers, or in floating point to within n u / (1 - n u) of |q'||b'| for n
   additions of unit roundoff u in any order; storing it in half precision adds that type's unit roundoff.
3. Another 2**-19 |q'||b| covers what else is rounded: the bounds themselves and values to float32 (a few
   2**-24 each) and the float64 sums. Queries and segments are scaled by powers of two and lengths count as
   2**-60 at least, so that it covers underflow too; a query for which scales are too extreme is given up.

So every row has an upper and a lower bound. A row is dropped only where its upper bound is below the k-th
largest lower bound, or below the k-th best value so far: k others have larger values then, in float32 too.
What remains is computed exactly. int8 codes lie in the order of the rows' lengths: no value exceeds |q||b|,
so where that falls below the k-th best value, all rows that follow are dropped unseen. A query that is given
up, or has more candidates than can be held (near-ties, duplicates), is searched again with more precise
products, and at last by computing every value.
"""

from nnguide_core.search.topk import PreparedBank, TopK, prepare, topk_inner_product

__all__ = ["PreparedBank", "TopK", "prepare", "topk_inner_product"]
