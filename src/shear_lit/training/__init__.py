"""The LightningModule, its optimizer groups, the boundary between two steps, strategies; how a run begins and ends."""
