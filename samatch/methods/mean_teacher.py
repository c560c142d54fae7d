"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017).

unsupervised = mean (softmax f(w) - softmax t(w + noise))^2,   t = moving average of f
"""

import torch.nn.functional as F

from samatch.methods._families import TeacherMethod


class MeanTeacher(TeacherMethod):
    def predict(self, batch):
        self.update_teacher(batch)
        return super().predict(batch) | {"logits_teacher": self.teach(batch.image_w)}

    def unsupervised(self, predictions, batch):
        return F.mse_loss(
            predictions["logits_w"].float().softmax(1),
            predictions["logits_teacher"].float().softmax(1),
        )


METHOD = MeanTeacher
