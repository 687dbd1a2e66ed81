"""The LightningModule, its optimizer groups, the boundary between two steps, strategies, and how a run begins and ends."""
