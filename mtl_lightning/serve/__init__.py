"""A predictor behind HTTP, on LitServe: JSON rows in, JSON answers out; needs the extra ``serve``.

``mtl-lightning serve --model exported`` comes here. A request's rows are checked in the process that takes it
(:mod:`~mtl_lightning.serve.body`), and computed, together with those of other requests that wait, in a worker that
holds the network (:mod:`~mtl_lightning.serve.worker`); :mod:`~mtl_lightning.serve.server` puts both together.
"""
